"""A release: the adapter, its certificate and card, and the synthetic images, in one folder that may leave.

Guarantees:
- nothing in `release/` derives from private data except through the released gradients;
- the certificate is verified by a fresh process before a training calls itself done;
- images made from a release are post-processing and cost nothing.
May import torch, peft and diffusers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import Base, load_base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.generation import Sampling, balanced_labels, sample
from dp_diffusers.errors import ModelError, ParameterError, RunFolderError, VerificationError
from dp_diffusers.images_out import write_images
from dp_diffusers.model_card import model_card
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.recipe import GenerationSettings
from dp_diffusers.run_folder import RunFolder
from dp_diffusers.strategies.lora import load_adapter, save_adapter

Progress = Callable[..., None]


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


@dataclass(kw_only=True)
class Release:
    """A finished run: its folder and its certificate."""

    folder: RunFolder
    certificate: Certificate
    base: Base | None = None

    @property
    def path(self) -> Path:
        """The folder that may leave."""
        return self.folder.release

    @classmethod
    def open(cls, run: str | Path, *, base: Base | None = None) -> Release:
        """The release of a finished run folder. Raises `RunFolderError` where there is none."""
        folder = RunFolder(Path(run))
        path = folder.release / "certificate.json"
        if not path.exists():
            raise RunFolderError(f"{run} holds no finished run", hint="`dp-diffusers train` makes one")
        return cls(folder=folder, certificate=Certificate.from_json(path.read_text()), base=base)

    def settings(self) -> dict[str, Any]:
        """The resolved recipe, as a plain document."""
        return yaml.safe_load(self.folder.recipe.read_text())  # type: ignore[no-any-return]

    def family(self, *, adapted: bool = True) -> Family:
        """The base model, with the adapter or without (the ε = 0 model).

        Raises `ModelError` when the base is not the one that the certificate names.
        """
        if self.base is not None:
            return self._in_memory(self.base, adapted)
        base = load_base(self.settings()["base"])
        if base.sha256 != self.certificate.base_model["sha256"]:
            raise ModelError("the base model is not the one that this adapter was trained on")
        family = family_of(base)
        if adapted:
            load_adapter(family.network, self.folder.adapter)
        return family

    @staticmethod
    def _in_memory(base: Base, adapted: bool) -> Family:
        """A base that came as an object carries its adapter already, and is not kept without it."""
        if not adapted:
            raise ModelError(
                "the public model came as an object and is not kept without its adapter",
                hint="save it with save_pretrained, and give the folder",
            )
        return family_of(base)


def write_release(
    folder: RunFolder,
    *,
    base: Base,
    network: nn.Module,
    config: Any,
    plan: Any,
    data: PrivateImages,
    account: Any,
) -> Release:
    """Writes adapter, model card and certificate, and has a fresh process verify them."""
    save_adapter(network, config, folder.adapter)
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    certificate = Certificate.draft(
        plan=plan,
        account=account,
        base_model={"id": base.identity, "sha256": base.sha256},
        adapter={"trainable_parameters": trainable},
        class_names_from_data=data.class_names_from_data,
    )
    (folder.release / "README.md").write_text(model_card(json.loads(certificate.to_json()), base))
    certificate = certificate.issue(folder.release)
    verify_in_a_fresh_process(folder.release)
    return Release(folder=folder, certificate=certificate)


def verify_in_a_fresh_process(release: Path) -> None:
    """Runs `certificate verify` apart from this process. Raises `VerificationError` with what it found."""
    command = [sys.executable, "-m", "dp_diffusers", "certificate", "verify", str(release)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise VerificationError(f"the certificate of {release} does not verify: {outcome.stderr.strip()}")


def generate(
    release: Release | str | Path,
    *,
    images: int | None = None,
    per_label: int | None = None,
    out: str | Path | None = None,
    format: str = "parquet",
    settings: GenerationSettings | None = None,
    progress: Progress = _silent,
) -> Path:
    """Makes synthetic images; returns their folder (`RUN/release/images` unless `out` says otherwise).

    Args:
        release: a release, or the run folder of one.
        images: how many in all, as evenly over the labels as divides; `per_label`: how many of each label.
        format: `parquet` or `imagefolder`.
        settings: sampler, steps, guidance, seed; None takes the run's recipe.

    Raises `ParameterError` for counts that make no sense, or an `out` that is there already.
    """
    release = release if isinstance(release, Release) else Release.open(release)
    chosen = settings or GenerationSettings(**release.settings().get("generation", {}))
    family = release.family()
    count = _count(images, per_label, chosen.images, family.base.classes)
    target = Path(out) if out is not None else release.path / "images"
    labels = balanced_labels(count, family.base.classes)
    pixels = sample_all(family, labels, count, chosen, release.folder, progress)
    write_images(pixels, labels, family.base.class_names, target, format=format)
    if out is None:
        release.certificate = release.certificate.reissue(release.path)
    return target


def sample_all(
    family: Family,
    labels: np.ndarray | None,
    count: int,
    settings: GenerationSettings,
    folder: RunFolder,
    progress: Progress,
) -> np.ndarray:
    """uint8 `[count, H, W, C]`, kept part by part in `private/`: an interrupted generation goes on."""
    sampling = Sampling(
        sampler=settings.sampler, steps=settings.steps, guidance=settings.guidance, seed=settings.seed
    )
    parts = folder.private / "images.partial"
    done = _parts_of(parts, sampling, count)
    start = sum(len(part) for part in done)
    for part in sample(family, labels, count, sampling, start=start):
        np.save(parts / f"{len(done):05d}.npy", part)
        done.append(part)
        progress(message=f"images {sum(map(len, done))}/{count}")
    for path in parts.glob("*"):
        path.unlink()
    parts.rmdir()
    return np.concatenate(done)


def _parts_of(parts: Path, sampling: Sampling, count: int) -> list[np.ndarray]:
    note = json.dumps([repr(sampling), count])
    marker = parts / "sampling.json"
    if not marker.exists() or marker.read_text() != note:
        parts.mkdir(exist_ok=True)
        for path in parts.glob("*"):
            path.unlink()
        marker.write_text(note)
        return []
    found = []
    for path in sorted(parts.glob("*.npy")):
        try:
            found.append(np.load(path))
        except (ValueError, EOFError, OSError):  # the part that was being written when the process died
            path.unlink()
            break
    return found


def _count(images: int | None, per_label: int | None, default: int, classes: int) -> int:
    if images is not None and per_label is not None:
        raise ParameterError("give images or per_label, not both")
    if per_label is not None:
        images = per_label * max(classes, 1)
    count = default if images is None else images
    if count < 1:
        raise ParameterError(f"expected at least one image, got {count}")
    return count
