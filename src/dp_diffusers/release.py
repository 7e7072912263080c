"""A release: the adapter, its certificate and card, and the synthetic images, in one folder that may leave.

Guarantees:
- nothing in `release/` derives from private data except through the released gradients, and a leak scan looks
  for what would, before anything is certified;
- the certificate is verified by a fresh process before a training calls itself done;
- images made from a release are post-processing and cost nothing.
May import torch, peft and diffusers.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import diffusers
from safetensors.torch import load_file

from dp_diffusers.cards.evolution_card import population_card
from dp_diffusers.cards.model_card import model_card
from dp_diffusers.classes.conditions import classes_of, requested
from dp_diffusers.classes.released_classes import ReleasedClasses, declared_size, names_for_base
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.drawing.kept_images import KeptImages
from dp_diffusers.errors import ModelError, RunFolderError, VerificationError, of_kind
from dp_diffusers.evolution.population import Population, saved_population
from dp_diffusers.leaks.scan import FOUND, Secrets, require_no_leak
from dp_diffusers.privacy.certificate import ADAPTER_FILE, POPULATION_FILE, TEACHER_FILE, Certificate
from dp_diffusers.privacy.files import CERTIFICATE_NAME, release_files
from dp_diffusers.reporting.facts import Report
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.held_base import require_unchanged, take_up
from dp_diffusers.run.run_secrets import has_traces, kept_traces, note_traces, secrets_of
from dp_diffusers.runtime.devices import device_of
from dp_diffusers.strategies.diffusers_file import DIFFUSERS_FILE, save_diffusers_lora
from dp_diffusers.strategies.lora import load_adapter, save_adapter
from dp_diffusers.teaching.teacher import NETWORK, Teacher, saved_teacher

_WRITTEN: Final = (
    "README.md",
    ADAPTER_FILE,
    "adapter/adapter_config.json",
    f"adapter/{DIFFUSERS_FILE}",
    POPULATION_FILE,
    TEACHER_FILE,
    NETWORK,
)
Progress = Callable[..., None]


def silent(**_: Any) -> None:
    """Progress that nobody sees."""


@dataclass(kw_only=True)
class Release:
    """A finished run: its folder and its certificate."""

    folder: RunFolder
    certificate: Certificate
    base: Base | None = None
    _state: str | None = field(default=None, repr=False)  # of a base that came as an object, see `held_base`

    @property
    def path(self) -> Path:
        """The folder that may leave."""
        return self.folder.release

    @classmethod
    def open(cls, run: str | Path, *, base: Base | None = None) -> Release:
        """The release of a finished run folder, or of one that holds no more than recipe and release.

        Raises `RunFolderError` where there is none, `VerificationError` if its certificate was changed,
        `ParameterError` for a base of another kind.
        """
        if base is not None:
            of_kind(Base, base=base, hint="`finetune` called again with a pipeline gives the release with it")
        folder = RunFolder(Path(run).absolute())  # the same one after a change of the working directory
        folder.require_finished()
        return cls(folder=folder, certificate=Certificate.read(folder.release), base=base)

    def _repr_html_(self) -> str:
        return Report.of(self.folder)._repr_html_()

    def settings(self) -> dict[str, Any]:
        """The resolved recipe, as a plain document."""
        return self.folder.settings()

    def classes(self, family: Family, prompts: Sequence[str] | None = None) -> ReleasedClasses | None:
        """What its images are made of; certificates that do not say mean all classes of the base.

        prompts: texts to make images of instead, for a base that takes text. Raises `ParameterError` where
        they have no effect, or where only private captions are known.
        """
        recorded = self.certificate.classes
        known = None if recorded is None else ReleasedClasses.from_dict(recorded)
        return requested(family, known, prompts)

    def family(self, *, adapted: bool = True, device: str | None = None) -> Family:
        """The base model, with the adapter or without (the ε = 0 model), on `device`.

        device: as in a recipe; None takes `runtime.device` of the run. Raises `ModelError` when the base is
        not the one that the certificate names, `ParameterError` for a device that is not there.
        """
        place = device_of(self.device(device))
        family = self._family(adapted)
        family.network.to(place)
        return family

    def device(self, name: str | None = None) -> str:
        """The name of a device: the given one, or `runtime.device` of the run."""
        return name or str((self.settings().get("runtime") or {}).get("device", "auto"))

    def _family(self, adapted: bool) -> Family:
        if self.base is not None:
            return self._in_memory(self.base, adapted)
        base = load_base(self.settings()["base"]).with_classes(names_for_base(self._settings()))
        if base.sha256 != self.certificate.base_model["sha256"]:
            raise ModelError("the base model is not the one that this adapter was trained on")
        family = family_of(base, size=declared_size(self._settings()))
        if adapted and self.population is None:
            load_adapter(family.network, self.folder.adapter)
        return family

    @property
    def population(self) -> tuple[Population, float] | None:
        """What Private Evolution released in the place of an adapter, and the level of more variations."""
        return saved_population(self.path)

    @property
    def teacher(self) -> Teacher | None:
        """What gives images their labels; None for a run that asked for none."""
        return saved_teacher(self.path)

    def hold(self, *, trained: bool = False) -> None:
        """Takes up a base that came as an object; later calls find it as it was.

        trained: the release was made in this very base a moment ago.

        Raises `ModelError` where it is another base, carries another adapter, or was changed since.
        """
        assert self.base is not None
        if self._state is not None:
            require_unchanged(self.base, self._state)
            return
        adapter = None if self.population else self.folder.adapter
        sha256 = str(self.certificate.base_model["sha256"])
        self._state = take_up(self.base, adapter, sha256, trained=trained)

    def _settings(self) -> dict[str, Any]:
        return self.settings() if self.folder.recipe.exists() else {}

    def _in_memory(self, base: Base, adapted: bool) -> Family:
        """A base that came as an object carries its adapter, and is not kept without it."""
        self.hold()
        if not adapted and self.population is None:
            raise ModelError(
                "the public model came as an object and is not kept without its adapter",
                hint="save it with save_pretrained, and give the folder",
            )
        return family_of(base, size=declared_size(self._settings()))


def write_release(
    folder: RunFolder,
    *,
    family: Family,
    config: Any,
    plan: Any,
    data: PrivateImages,
    account: Any,
    proportions: tuple[float, ...] | None = None,
    public_images: Mapping[str, Any] | None = None,
    population: Population | None = None,
    level: float | None = None,
    teacher: Teacher | None = None,
    taught_by: Mapping[str, Any] | None = None,
    warmed_by: Mapping[str, Any] | None = None,
    lost_queries: Sequence[str] = (),
) -> Release:
    """Writes adapter, model card and certificate, and has a fresh process verify them.

    proportions: each class's part of the units, from the run's class histogram. public_images: what the
    certificate says of those that were mixed in. population: released in the place of an adapter, with the
    level of more variations. teacher: released beside it; taught_by: what the certificate says of what made
    it, and warmed_by of a warm-up. lost_queries: names of those that were charged and have no answer. Raises
    `VerificationError` if the files hold anything private word for word, or numbers that are not finite:
    nothing is certified then; and `RunFolderError` where files lie in the release that no training writes.
    """
    network, base = family.network, family.base
    trainable, card = 0, population_card
    if population is None:
        save_adapter(network, config, folder.adapter)
        also = save_diffusers_lora(
            network,
            config,
            folder.adapter,
            pipeline_class=getattr(diffusers, base.pipeline),
            component=base.component,
        )
        low_rank = any("lora_" in name for name, _ in network.named_parameters())
        card = partial(model_card, diffusers_file=also, low_rank=low_rank)
        trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    else:
        assert level is not None
        population.save(folder.release, level=level)
    if teacher is not None:
        teacher.save(folder.release)
    _require_finite(folder.release)
    settings = folder.settings() if folder.recipe.exists() else {}
    classes = classes_of(family, settings)
    classes = None if classes is None else replace(classes, proportions=proportions)
    certificate = Certificate.draft(
        plan=plan,
        account=account,
        base_model=_base_model(base),
        adapter={"trainable_parameters": trainable},
        class_names_from_data=data.class_names_from_data or bool(settings.get("class_names_from_data")),
        multi_owner=data.multi_owner,
        classes=None if classes is None else classes.to_dict(),
        public_images=public_images,
        teacher=taught_by,
        warmup=warmed_by,
        lost_queries=lost_queries,
    )
    (folder.release / "README.md").write_text(card(certificate.to_dict(), family), encoding="utf-8")
    if not has_traces(folder):  # a run notes them before its first charge
        note_traces(folder, data, ledger=None if account is None else account.ledger.path)
    (folder.release / CERTIFICATE_NAME).unlink(missing_ok=True)
    secrets = secrets_of(folder, kept_traces(folder), _public_words(certificate))
    require_no_strays(folder)
    certificate = certificate.issue(folder.release, check=_scan(folder, secrets))
    try:
        verify_in_a_fresh_process(folder.release)
    except BaseException:
        (folder.release / CERTIFICATE_NAME).unlink(missing_ok=True)  # nobody may take it for a valid one
        raise
    return Release(folder=folder, certificate=certificate)


def require_no_strays(folder: RunFolder) -> None:
    """Raises `RunFolderError` for files in the release that no training writes: they would be certified."""
    found = release_files(folder.release)
    strays = [name for name in found if name not in _WRITTEN and not _is_folder(found[name])]
    if strays:
        raise RunFolderError(
            f"{folder.release} holds what no training wrote: {', '.join(strays)}",
            hint="move it away, and run the same command again",
        )


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, which a training that died may have left empty."""
    return path.is_dir() and not path.is_symlink()


def _require_finite(release: Path) -> None:
    """Raises `VerificationError` for tensors that draw nothing; what was charged stays charged."""
    for path in sorted(release.rglob("*.safetensors")):
        bad = [name for name, value in load_file(path).items() if not value.isfinite().all()]
        if bad:
            raise VerificationError(
                f"{path} holds values that are not finite ({bad[0]}): it is not certified",
                hint="the training diverged: lower training.learning_rate, in a run of its own",
            )


def _base_model(base: Base) -> dict[str, Any]:
    """What a certificate says of the base: that it is public, or which releases are in it."""
    earlier = {"merged_from": [dict(origin) for origin in base.merged_from]} if base.merged_from else {}
    return {"id": base.identity, "sha256": base.sha256, **earlier}


def _scan(folder: RunFolder, secrets: Secrets) -> Callable[[str], None]:
    """Looks through the whole release and the text of the certificate that it is about to get."""
    report = folder.private / FOUND
    return lambda text: require_no_leak(
        folder.release, secrets, report, also={CERTIFICATE_NAME: text.encode()}
    )


def _public_words(certificate: Certificate) -> list[str]:
    """What a certificate says of the public model and its classes, and all whole numbers in it."""
    classes = certificate.classes or {}
    names = [*(classes.get("names") or ()), *(classes.get("prompts") or ())]
    numbers = [value for part in (certificate.adapter, *certificate.mechanisms) for value in part.values()]
    teacher = certificate.further.get("teacher") or {}
    shown = [found for found in (certificate.further.get("public_images"), teacher.get("public")) if found]
    numbers += [value for images in shown for value in images.values()]
    numbers += (certificate.further.get("warmup") or {}).values()
    whole = [str(value) for value in numbers if isinstance(value, int)]
    named = [images["name"] for images in shown]
    named += [
        str(value) for origin in certificate.base_model.get("merged_from", ()) for value in origin.values()
    ]
    return [str(certificate.base_model["id"]), *named, *map(str, names), *whole]


def verify_in_a_fresh_process(release: Path) -> None:
    """Runs `certificate verify` apart from this process. Raises `VerificationError` with what it found."""
    command = [sys.executable, "-m", "dp_diffusers", "certificate", "verify", str(release)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise VerificationError(f"the certificate of {release} does not verify: {outcome.stderr.strip()}")


def known_secrets(release: Release, public: Iterable[str] = ()) -> Secrets:
    """What the training of the release noted as private; `public`: words that are none, such as prompts."""
    told = KeptImages(release.folder).public_words()
    words = [*_public_words(release.certificate), *told, *public]
    return secrets_of(release.folder, kept_traces(release.folder), words)


def leak_check(release: Release, secrets: Secrets) -> Callable[[Path], None]:
    """Looks through a folder of new images."""
    return lambda built: require_no_leak(built, secrets, release.folder.private / FOUND)


def certify_again(release: Release, secrets: Secrets, progress: Progress, added: str) -> None:
    """Issues the certificate again with what is at `added` now, once the whole release was looked through.

    It says where there were no traces of the private images to look for (see `Certificate.after_scan`).
    Raises `VerificationError` where anything else was changed, or something private is in it.
    """
    if release.certificate.signature is not None:
        progress(
            message=f"the signature of the certificate did not cover what is new ({added}): sign it again"
        )
    check = _scan(release.folder, secrets)
    scanned = release.certificate.after_scan(added, with_traces=secrets.has_traces)
    release.certificate = scanned.reissue(release.path, replaced=[added], check=check)
