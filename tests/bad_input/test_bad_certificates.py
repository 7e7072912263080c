"""Bad certificates, releases, keys and evaluations: a negative verdict or a refusal, and nothing changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_rows import Row, Spoil, both, check, leave, writes

from certificate_support import forge, read
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.signature import generate_key

RELEASE = "{folder}/run/release"
CERTIFICATE = "run/release/certificate.json"
VERIFY = ("certificate", "verify", RELEASE)


def row(name: str, spoil: Spoil, says: str, *more: str, problems: int = 1, hint: str | None = None) -> Row:
    """`certificate verify` after `spoil`: not valid."""
    return Row(
        name=name,
        spoil=spoil,
        command=(*VERIFY, *more),
        says=says,
        hint=hint,
        code=4,
        problems=problems,
        answers="not valid\n",
    )


def refused(name: str, words: str, says: str, hint: str | None, spoil: Spoil = leave, code: int = 2) -> Row:
    """`certificate` with these words: refused before any verdict; R is the release, F the folder."""
    command = tuple(word.replace("R", RELEASE).replace("F/", "{folder}/") for word in words.split())
    return Row(name=name, command=("certificate", *command), says=says, hint=hint, spoil=spoil, code=code)


def forged(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Changes the document and writes it as sound as the package itself would."""

    def spoil(folder: Path) -> None:
        document = read(folder / "run" / "release")
        change(document)
        forge(folder / "run" / "release", document)

    return spoil


def sets(key: str, value: Any) -> Spoil:
    return forged(lambda document: document.update({key: value}))


def of_mechanism(**values: Any) -> Spoil:
    return forged(lambda document: document["mechanisms"][0].update(values))


def of_ledger(**values: Any) -> Spoil:
    return forged(lambda document: document["ledger"].update(values))


def text(old: str, new: str) -> Spoil:
    """Changes the text itself."""

    def spoil(folder: Path) -> None:
        path = folder / CERTIFICATE
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return spoil


def signed(folder: Path) -> None:
    release = folder / "run" / "release"
    Certificate.read(release).sign(release, folder / "key")


def signature(**values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        signed(folder)
        path = folder / CERTIFICATE
        document = json.loads(path.read_text())
        document["signature"].update(values)
        path.write_text(json.dumps(document, indent=2) + "\n")

    return spoil


def traversal(folder: Path) -> None:
    (folder / "secret").write_text("x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    forged(lambda document: document["files"].update({"../../secret": digest}))(folder)


STRAY = (
    "^hint: only what was certified belongs in a release: move what is not listed elsewhere, or delete it$"
)
FILES = [
    row("a weight changed", writes("run/release/adapter/adapter_model.safetensors", "w"), "was changed"),
    row("a file too many", writes("run/release/notes.txt", "x"), "notes.txt is not listed", hint=STRAY),
    row("a card gone", lambda f: (f / "run/release/README.md").unlink(), "README.md is missing"),
    row("a link", lambda f: (f / "run/release/x").symlink_to(f / "key"), "x is not listed", hint=STRAY),
    row("a path outside", traversal, r"\.\./\.\./secret is missing"),
]
TEXTS = [
    row("no JSON", writes(CERTIFICATE, "{"), "not a certificate: "),
    row("a list", writes(CERTIFICATE, "[]\n"), "not a certificate: not a JSON object"),
    row("nested", writes(CERTIFICATE, "[" * 100000), "not a certificate: nested too deeply"),
    row("NaN", text('"not_private": false', '"not_private": NaN'), "NaN is not a number of JSON"),
    row("a number beyond", text('"schema": 1', '"schema": 1e999'), "1e999 is too large"),
    row("a key twice", text('"schema": 1', '"schema": 1, "schema": 1'), "'schema' is given twice"),
    row("another schema", sets("schema", 2), "not a certificate of schema 1"),
    row("spaces", text('"schema": 1', '"schema":  1'), "its text was changed"),
    row("not text", lambda f: (f / CERTIFICATE).write_bytes(b"\xff"), "is not a text in UTF-8"),
    row("epsilon retouched", text('"delta": 0.0001', '"delta": 0.0002'), "its digest is another", problems=2),
    row("no digest", text('"digest": "', '"digesd": "'), "digest is missing", problems=1),
]
NUMBERS = [
    row("epsilon claimed lower", sets("epsilon", 0.5), "epsilon 0.5 does not follow"),
    row("epsilon as text", sets("epsilon", "1"), "epsilon, delta or the mechanisms are missing"),
    row("delta above", sets("delta", 0.01), "delta 0.01 is not below 1 / population"),
    row("no mechanism", sets("mechanisms", []), "the mechanisms are missing"),
    row("mechanisms that are text", sets("mechanisms", ["x"]), "mechanisms holds something that is not a"),
    row(
        "fewer steps", of_mechanism(steps_charged=1, steps_planned=1), "does not follow: its mechanisms give"
    ),
    row("fewer steps than planned", of_mechanism(steps_charged=1), "was charged 1 of 4 steps"),
    row("a rule of nobody's", of_ledger(rule="banana"), "rule is 'banana': expected pld, filter, sum"),
    row("steps as text", of_mechanism(steps_charged="9"), "steps"),
    row("steps without end", of_mechanism(steps_charged=10**12), r"steps_charged .* is not in \[1, "),
    row("more noise", of_mechanism(noise_multiplier=50.0), "does not follow: its mechanisms give"),
    row("another rate", of_mechanism(sampling_probability=0.01), "is not expected_units / population"),
    row("an unknown mechanism", of_mechanism(name="magic"), "unknown mechanism 'magic'"),
    row("spent above the cap", of_ledger(spent_epsilon=9.0), "above its cap of"),
    row("no head", of_ledger(head="x"), "the ledger's head is missing"),
    row("not private and an epsilon", sets("not_private", True), "says not private and gives an epsilon"),
    row("no base", sets("base_model", {"id": "x"}), "the base model's hash is missing"),
    row(
        "an adapter of others",
        sets("adapter", {"sha256": "0" * 64, "trainable_parameters": 1}),
        "adapter's hash is not that of",
    ),
    row("a field missing", forged(lambda document: document.pop("ledger")), "ledger"),
]
SIGNATURES = [
    row("unsigned", leave, "the certificate is not signed", "--public-key", "{folder}/key.pub"),
    row("signed by another", signed, "signed with another key", "--public-key", "{folder}/other.pub"),
    row("a signature of nothing", signature(value="0" * 128), "does not belong to this certificate"),
    row("a damaged signature", signature(value="zz"), "the signature is damaged"),
    row("another algorithm", signature(algorithm="rsa"), "the signature is damaged"),
]
VERBS = [
    refused("no release", "verify F/none", "release folder not found", "run folder"),
    Row(
        name="no certificate",
        command=VERIFY,
        spoil=lambda f: (f / CERTIFICATE).unlink(),
        says=r"release holds no certificate\.json",
        hint="copied whole",
        code=4,
        answers="not valid\n",
    ),
    refused(
        "no public key", "verify R --public-key F/none", "cannot read the key .*: No such file", "keygen"
    ),
    refused("a key that is private", "verify R --public-key F/key", "is not a public key in PEM form", "pub"),
    refused("a key that is text", "sign R --key F/recipe.yaml", "is not a private key in PEM form", "keygen"),
    refused("no key", "sign R --key F/none", "cannot read the key .*: No such file", "keygen"),
    refused("a key that is there", "keygen F/key", "key is there already", "never overwritten"),
    refused("a key in no folder", "keygen F/none/key", "cannot write .*: No such file", "folder"),
    refused(
        "sign what is not valid",
        "sign R --key F/key",
        "is not valid, so it is not signed",
        "verify",
        writes("run/release/x", "x"),
        4,
    ),
    refused(
        "a key in the release",
        "sign R --key R/key",
        "lies in the release",
        "outside",
        writes("run/release/key", "x"),
    ),
    refused("sign without a key", "sign R", "missing option '--key'", "--help"),
    refused(
        "sign nothing",
        "sign R --key F/key",
        "holds no certificate.json",
        "train",
        lambda f: (f / CERTIFICATE).unlink(),
    ),
    Row(
        name="merge a changed adapter",
        command=("merge", "{folder}/run", "--out", "{folder}/new"),
        says="is not valid, so it is not merged: adapter/adapter_model.safetensors was changed",
        hint="certificate verify",
        code=4,
        spoil=writes("run/release/adapter/adapter_model.safetensors", "w"),
    ),
    Row(
        name="merge into what is there",
        command=("merge", "{folder}/run", "--out", "{folder}/run"),
        says="run is there already",
        hint="another --out",
    ),
    Row(
        name="merge without a base",
        command=("merge", "{folder}/run/release", "--out", "{folder}/new"),
        says="has no recipe beside it that leads to its base model",
        hint="give --base, the folder or hub id of 'x'",
    ),
    Row(
        name="generate from a changed certificate",
        command=("generate", "{folder}/run", "--quiet"),
        says="its digest is another",
        hint="restore it",
        code=4,
        spoil=text('"delta": 0.0001', '"delta": 0.0002'),
    ),
]
ROWS = [*FILES, *TEXTS, *NUMBERS, *SIGNATURES, *VERBS]
_MADE: dict[str, bytes] = {}


def _make(folder: Path) -> None:
    release = folder / "run" / "release"
    (release / "adapter").mkdir(parents=True)
    (release / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (release / "README.md").write_text("card")
    (folder / "recipe.yaml").write_text("base: x\n")
    plan = Plan.calibrate(Budget(1.0, 1e-4), DPSGD(steps=4, expected_units=500, population=1000))
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(RunKeys.fresh())
        for step in range(4):
            account.charge(step)
        account.settle()
        facts = {"base_model": {"id": "x", "sha256": "0" * 64}, "adapter": {"trainable_parameters": 1}}
        Certificate.draft(plan=plan, account=account, **facts).issue(release)
    for name in ("key", "other"):
        generate_key(folder / name)


def world(folder: Path) -> None:
    """A run folder with a release that is valid, and two keys."""
    if not _MADE:
        _make(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        _MADE.update({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    for name, content in _MADE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_certificates(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world(tmp_path)
    check(row, tmp_path, capsys)


def test_the_release_of_the_table_is_valid(tmp_path: Path) -> None:
    world(tmp_path)
    both(signed)(tmp_path)
    assert Certificate.verify(tmp_path / "run" / "release").problems == ()
