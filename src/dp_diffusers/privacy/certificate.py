"""The certificate of a release: what was done, what it cost, and the hash of every file.

Guarantee: a certificate is drawn up from plan and ledger, never from claims of the caller; it holds public
numbers only. Imports privacy/ and the standard library. The format follows the constitution of
dp_accounting's events: fields are only ever added, and their meaning never changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers.errors import ParameterError, VerificationError
from dp_diffusers.privacy.assumptions import assumptions_of
from dp_diffusers.privacy.certificate_text import digest_of, document_in, problems_of_text, text_of
from dp_diffusers.privacy.certified_numbers import CertifiablePlan, certified_numbers, software
from dp_diffusers.privacy.files import (
    CERTIFICATE_NAME,
    changed,
    forget_unfinished,
    hashes,
    read_whole,
    release_files,
    release_in,
    unlisted,
    write_whole,
)
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.privacy.sentences import facts_of
from dp_diffusers.privacy.statements import statements_of

if TYPE_CHECKING:
    from dp_diffusers.privacy.verification import Verification

SCHEMA: Final = 1
ADAPTER_FILE: Final = "adapter/adapter_model.safetensors"
TEACHER_FILE: Final = "teacher.safetensors"
POPULATION_FILE: Final = "population/population.safetensors"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Schema 1. `epsilon` is None exactly when `not_private`; paths in `files` are relative, with slashes."""

    software: str
    unit: str | None
    adjacency: str | None
    epsilon: float | None
    delta: float | None
    accountant: Mapping[str, Any]
    mechanisms: tuple[Mapping[str, Any], ...]
    ledger: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    base_model: Mapping[str, Any]
    adapter: Mapping[str, Any]
    classes: Mapping[str, Any] | None = None
    """What images are made of: {labels, names, declared}; None without classes or if not recorded."""
    not_private: bool
    assumptions: tuple[str, ...]
    statements: tuple[Mapping[str, str], ...] = ()
    """What NIST SP 800-226 asks of a privacy claim: {topic, question, answer}, one after the other."""
    digest: str | None = None
    """SHA-256 over the other fields but `signature` (see `certificate_text`); None before it is issued."""
    signature: Mapping[str, str] | None = None
    """{algorithm, public_key, value} of ed25519 over the other fields, or None."""
    schema: int = SCHEMA
    further: Mapping[str, Any] = field(default_factory=dict)
    """Fields of later versions, kept as they are."""

    @classmethod
    def draft(
        cls,
        *,
        plan: CertifiablePlan,
        account: Reservation | None,
        base_model: Mapping[str, Any],
        adapter: Mapping[str, Any],
        class_names_from_data: bool = False,
        multi_owner: bool = False,
        classes: Mapping[str, Any] | None = None,
        public_images: Mapping[str, Any] | None = None,
        teacher: Mapping[str, Any] | None = None,
        warmup: Mapping[str, Any] | None = None,
        lost_queries: Sequence[str] = (),
    ) -> Certificate:
        """The certificate of a run that has settled, still without files; `issue` hashes them.

        `account`: the run's reservation, None without privacy. `base_model`: {id, sha256}; `adapter`:
        {trainable_parameters}; `classes`: public ones only; `public_images`: {name, sha256, images, weight,
        batch_size} of those mixed in without noise, None without; `teacher`: {features, sha256, dimensions,
        public} of a released classifier, public being {name, sha256, images} or None, with `drawn_by` where
        the trained model drew in their place; `lost_queries`: those that were paid for and of which nothing
        is released; `warmup`: {dimensions,
        images, steps, batch_size, learning_rate} of one; `multi_owner`: images
        of several people, each of whom is in one unit only. Raises `GuaranteeError` if plan and account do
        not belong together or the run is not settled.
        """
        numbers = certified_numbers(plan, account)
        beside = {"public_images": public_images, "teacher": teacher, "warmup": warmup}
        drafted = cls(
            software=software(),
            base_model=dict(base_model),
            adapter={"sha256": None, **adapter},
            classes=None if classes is None else dict(classes),
            assumptions=(),
            further={name: dict(value) for name, value in beside.items() if value is not None}
            | ({"lost_queries": list(lost_queries)} if lost_queries else {}),
            **numbers,
        ).to_dict()
        facts = {"class_names_from_data": class_names_from_data, "multi_owner": multi_owner}
        drafted["assumptions"] = assumptions_of(drafted, **facts)
        drafted["statements"] = statements_of(drafted, **facts)
        return cls.from_dict(drafted)

    def listing(self, release: str | Path) -> Certificate:
        """The certificate as it is issued: with the hash of every file below `release`, and its digest."""
        files = hashes(Path(release))
        adapter = {**self.adapter, "sha256": files.get(ADAPTER_FILE)}
        listed = dataclasses.replace(self, files=files, adapter=adapter, signature=None)
        return dataclasses.replace(listed, digest=digest_of(listed.to_dict()))

    def issue(self, release: str | Path, *, check: Callable[[str], None] = lambda _: None) -> Certificate:
        """Hashes every file below `release`, writes certificate.json there and returns what it says.

        `check` looks at release and text once the files are hashed; nothing is written if it raises.
        """
        folder = Path(release)
        forget_unfinished(folder / CERTIFICATE_NAME)
        issued = self.listing(folder)
        check(issued.to_json())
        write_whole(folder / CERTIFICATE_NAME, issued.to_json())
        return issued

    def sign(self, release: str | Path, key: str | Path) -> Certificate:
        """Signs the certificate of `release` with a private ed25519 key; returns what it says then.

        `key`: a PEM file, outside the release. Raises `VerificationError` if `release` does not verify or
        holds another certificate; `InputError` for a key that cannot be used.
        """
        from dp_diffusers.privacy.signature import signed

        folder, file = Path(release), Path(key)
        if file.resolve().is_relative_to(folder.resolve()):
            raise ParameterError(f"{file} lies in the release", hint="a private key stays outside it")
        found = self.verify(folder)
        if not found.valid or Certificate.read(folder) != self:
            problems = "; ".join(found.problems) or "it is not this certificate"
            raise VerificationError(
                f"{folder} is not valid, so it is not signed: {problems}",
                hint="`dp-diffusers certificate verify` lists what is wrong",
            )
        document = {**self.to_dict(), "signature": None}
        document["signature"] = signed(document, file)
        issued = Certificate.from_dict(document)
        write_whole(folder / CERTIFICATE_NAME, issued.to_json())
        return issued

    def reissue(
        self,
        release: str | Path,
        *,
        replaced: Iterable[str] = (),
        check: Callable[[str], None] = lambda _: None,
    ) -> Certificate:
        """The same certificate with the files in `replaced` as they are now; without its signature, which
        was for the files before them.

        Raises as `require_listed` does, and what `check` raises (see `issue`); nothing is written then.
        """
        self.require_listed(release, replaced=replaced)
        return self.issue(release, check=check)

    def after_scan(self, added: str, *, with_traces: bool) -> Certificate:
        """What it says once the release, with something `added` to it, is scanned again.

        `with_traces`: the private images, as their run noted them, are there to compare with; if not,
        `scanned_without_traces` names what was added, and the sentence about the scan does. A later scan
        with them is one of the whole release; in sentences of another version, which this one cannot put
        right, what was named stays named. Raises `VerificationError` where something has to be named there.
        """
        before = self.further.get("scanned_without_traces", [])
        unknown = [] if with_traces else sorted({*before, added})
        if unknown == before:
            return self
        document = self.to_dict()
        facts = facts_of(document)
        if facts is None and with_traces:
            return self
        if facts is None:
            raise VerificationError(
                f"no traces of the private images are left, and {software()} cannot say so in a certificate "
                f"that it does not word: it names {self.software}",
                hint="put the private folder of the run back, or write to another place with --out",
            )
        document.pop("scanned_without_traces", None)
        document |= {"scanned_without_traces": unknown} if unknown else {}
        return self.from_dict({**document, "assumptions": assumptions_of(document, **facts)})

    def require_listed(self, release: str | Path, *, replaced: Iterable[str] = ()) -> None:
        """Raises `VerificationError` unless `release` holds what is listed, unchanged, and nothing else.

        `replaced`: paths of files or folders that may be new, differ from what is listed, or be gone.
        """
        folder, exempt = Path(release), tuple(path.rstrip("/") for path in replaced)
        forget_unfinished(folder / CERTIFICATE_NAME)
        kept = {name: digest for name, digest in self.files.items() if not _is_below(name, exempt)}
        if problems := changed(folder, kept):
            raise VerificationError(
                f"{folder} is not the release that was certified: {'; '.join(problems)}",
                hint="restore the files, or make the release again",
            )
        announced = dict.fromkeys((name for name in release_files(folder) if _is_below(name, exempt)), "")
        if strays := unlisted(folder, {**self.files, **announced}):
            raise VerificationError(
                f"{folder} holds more than was certified: {'; '.join(strays)}",
                hint="move it away: only a training or a generation adds files to a release",
            )

    def to_json(self) -> str:
        """The document, with two spaces of indent and keys in the order of the schema."""
        return text_of(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The document as a plain dictionary."""
        order = ["schema", *(item.name for item in dataclasses.fields(self) if item.name != "schema")]
        document = {name: getattr(self, name) for name in order if name != "further"}
        document["mechanisms"] = [dict(entry) for entry in self.mechanisms]
        document["assumptions"] = list(self.assumptions)
        document["statements"] = [dict(statement) for statement in self.statements]
        return {**document, **self.further}

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Reads a certificate. Raises `ParameterError` for anything that is not one of schema 1."""
        return cls.from_dict(document_in(text))

    @classmethod
    def read(cls, release: str | Path) -> Certificate:
        """The certificate in a release folder. Raises `VerificationError` where its text was changed."""
        path = Path(release) / CERTIFICATE_NAME
        text = read_whole(path)
        problems = list(problems_of_text(text, document_in(text)))
        if problems:
            raise VerificationError(f"{path}: {problems[0]}", hint="restore it, or make the release again")
        return cls.from_json(text)

    @classmethod
    def from_dict(cls, document: Any) -> Certificate:
        """Reads what `to_dict` gave; fields that this version does not know are kept."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ParameterError(f"not a certificate of schema {SCHEMA}")
        names = {item.name for item in dataclasses.fields(cls)} - {"further"}
        missing = sorted(names - set(document))
        if missing:
            raise ParameterError(f"not a certificate: {', '.join(missing)} missing")
        _check_types(document)
        known = {name: value for name, value in document.items() if name in names}
        known |= {name: tuple(document[name]) for name in ("mechanisms", "assumptions", "statements")}
        return cls(**known, further={name: document[name] for name in document if name not in names})

    @classmethod
    def verify(cls, release: str | Path, *, public_key: str | Path | None = None) -> Verification:
        """Recomputes epsilon and re-hashes the files of `release`; needs dp_accounting alone.

        `release`: its folder, or that of its run. `public_key`: PEM file of the signer. With it, a
        certificate that this key has not signed is not valid; without it a signature shows that nothing was
        changed since, and not who made it.
        """
        from dp_diffusers.privacy.verification import verify_release

        return verify_release(release_in(Path(release)), None if public_key is None else Path(public_key))


def _check_types(document: Mapping[str, Any]) -> None:
    kinds: dict[str, type] = dict.fromkeys(("accountant", "ledger", "files", "base_model", "adapter"), dict)
    if document.get("classes") is not None:
        kinds["classes"] = dict
    kinds |= dict.fromkeys(("mechanisms", "assumptions", "statements"), list)
    kinds["not_private"] = bool
    for name, kind in kinds.items():
        if not isinstance(document[name], kind):
            raise ParameterError(f"not a certificate: {name} is not a {kind.__name__}")
    for name in ("mechanisms", "statements"):
        if not all(isinstance(entry, dict) for entry in document[name]):
            raise ParameterError(f"not a certificate: {name} holds something that is not a dict")


def _is_below(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}/") for path in paths)
