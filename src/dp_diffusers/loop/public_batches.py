"""Public images beside the private ones: their gradient is added, without clip and noise, to the released.

Guarantees: batches and draws are a function of (experiment seed, step) alone; the public files are read
before the ledger or a private image is touched; public images that are private ones are refused. Nothing here
costs any epsilon. May import torch, and the data and the family that they meet. Source: public gradients
beside those of DP-SGD, Amid et al. 2022 (arXiv 2112.00193).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from dp_diffusers.classes.class_numbers import numbered_for
from dp_diffusers.classes.conditions import numbers_by_name
from dp_diffusers.data.apart import Shown, require_apart
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.public_images import PublicImages, load_public
from dp_diffusers.diffusion.family import Family
from dp_diffusers.errors import ParameterError
from dp_diffusers.loop.image_batches import Batches, Losses, added, encoded_once
from dp_diffusers.recipe.sections.public import PublicSettings

STREAM: Final = 0x7075626C  # keeps these draws apart from others of the same seed
UNPROTECTED: Final = "their gradient is taken without clip and noise: give images that anyone may see"


@dataclass(frozen=True, kw_only=True)
class PublicBatches:
    """Public images as the family takes them. shown: what is looked for among private images."""

    batches: Batches
    settings: PublicSettings
    shown: Shown

    def refuse_private(self, data: PrivateImages) -> None:
        """Raises `ParameterError` where a public image is a private one, whatever path it was read from.

        This looks at private images, before the first charge. That the run is refused tells whoever starts it
        that a private image lies among the public ones: their own mistake, and nothing else. Neither the
        image nor how many there are is said, nothing is released, and the reservation is given back.
        """
        if self.shown.meets(data):
            raise ParameterError(
                f"training.public {self.settings.path} holds images that are among the private ones",
                hint=UNPROTECTED,
            )

    def add_gradient(
        self,
        parameters: list[nn.Parameter],
        losses: Losses,
        step: int,
        *,
        most_rows: int,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """Adds weight x the gradient of the mean loss of the step's batch to each `grad`.

        forget: called after each pass of at most `most_rows` rows, to drop what it has left in hooks. Where a
        pass raises, nothing was added.
        """
        total = self.batches.gradients(parameters, losses, step, most_rows=most_rows, forget=forget)
        weighted = [None if gradient is None else gradient * self.settings.weight for gradient in total]
        # all sums first: memory may run out here too, and what is tried again is added once
        sums = [
            added(parameter.grad, gradient) for parameter, gradient in zip(parameters, weighted, strict=True)
        ]
        for parameter, gradient in zip(parameters, sums, strict=True):
            parameter.grad = gradient

    def record(self) -> dict[str, Any]:
        """What a certificate says of them: name, SHA-256 of pixels and labels, how many, and their share."""
        images, labels = np.asarray(self.batches.images), self.batches.labels
        digest = hashlib.sha256(images.tobytes())
        digest.update(b"" if labels is None else labels.astype("<i8").tobytes())
        return {
            "name": Path(self.settings.path).name,
            "sha256": digest.hexdigest(),
            "images": len(images),
            "weight": self.settings.weight,
            "batch_size": self.settings.batch_size,
        }


def public_batches(
    settings: PublicSettings | None,
    family: Family,
    *,
    seed: int,
    recipe: Mapping[str, Any],
    private: str | None,
) -> PublicBatches | None:
    """Opens the public images of a run; None where it has none.

    recipe: the run's settings, as a document. private: where its private images lie, if that is known.
    Raises `DataError` for images or labels that do not fit the model, `ParameterError` for a model that
    learns from texts, and where the public images lie where the private ones do.
    """
    if settings is None:
        return None
    if private is not None:
        require_apart("training.public.path", settings.path, private, hint=UNPROTECTED)
    if family.takes_text:
        raise ParameterError(
            "training.public has labels, and the base model learns from texts",
            hint="leave training.public out",
        )
    source = {"source": "files", "path": settings.path, "label": settings.label}
    opened = load_public([source], family.size, family.channels, seed)
    labels = _labels(opened, family, recipe, has_labels=settings.label is not None)
    batches = Batches(
        family=family,
        images=opened.images,
        labels=labels,
        clean=encoded_once(family, opened.images),
        size=settings.batch_size,
        seed=seed,
        stream=STREAM,
    )
    return PublicBatches(
        batches=batches,
        settings=settings,
        shown=Shown.by(settings.path, opened.images),
    )


def _labels(
    opened: PublicImages, family: Family, recipe: Mapping[str, Any], *, has_labels: bool
) -> np.ndarray | None:
    """The labels as the family counts them; see `numbered_for`. recipe: as in `public_batches`."""
    if not family.classes:
        return None
    if not has_labels:
        raise ParameterError(
            "the base model is class-conditional, and training.public has no labels",
            hint="set training.public.label",
        )
    count = len(opened.images)
    as_units = PrivateImages(  # the type that classes are numbered for; all of them are public
        images=opened.images,
        labels=opened.labels,
        class_names=opened.class_names,
        owner=np.arange(count),
        unit_count=count,
    )
    mapped = numbers_by_name(family, recipe)
    return numbered_for(as_units, family.classes, family.base.class_names, mapped)[0].labels
