"""Public images beside the private ones: their gradient is added, without clip and noise, to the released.

Guarantees: batches and draws are a function of (experiment seed, step) alone; the public files are read
before the ledger or a private image is touched; public images that are private ones are refused. Nothing here
costs any epsilon. May import torch, and the data and the family that they meet. Source: public gradients
beside those of DP-SGD, Amid et al. 2022 (arXiv 2112.00193).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from dp_diffusers.class_numbers import numbered_for
from dp_diffusers.conditions import numbers_by_name
from dp_diffusers.data.apart import Shown, require_apart
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.public_images import PublicImages, load_public
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe.sections.public import PublicSettings

ENCODED_AT_ONCE: Final = 64
STREAM: Final = 0x7075626C  # keeps these draws apart from others of the same seed
UNPROTECTED: Final = "their gradient is taken without clip and noise: give images that anyone may see"

Losses = Callable[[Tensor, Tensor | None, Draws], Tensor]  # (clean, labels, draws) -> [R]


@dataclass(frozen=True, kw_only=True)
class PublicBatches:
    """Public images as the family takes them.

    clean: what the network sees; None to encode in each step. shown: what is looked for among private images.
    """

    family: Family
    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray | None  # int64 [N], in the numbering of the family
    clean: Tensor | None
    settings: PublicSettings
    seed: int
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
        size = self.settings.batch_size
        total: list[Tensor | None] = [None] * len(parameters)
        for clean, labels, draws in self.parts(step, most_rows):
            objective = losses(clean, labels, draws).sum() * (self.settings.weight / size)
            found = torch.autograd.grad(objective, parameters, allow_unused=True)
            total = [_sum(so_far, gradient) for so_far, gradient in zip(total, found, strict=True)]
            forget()
        # all sums first: memory may run out here too, and what is tried again is added once
        sums = [_sum(parameter.grad, gradient) for parameter, gradient in zip(parameters, total, strict=True)]
        for parameter, gradient in zip(parameters, sums, strict=True):
            parameter.grad = gradient

    def parts(self, step: int, most_rows: int) -> Iterator[tuple[Tensor, Tensor | None, Draws]]:
        """The batch of a step, at most `most_rows` rows at a time, on the device of the network."""
        rng = np.random.default_rng([STREAM, self.seed, step])
        size, device = self.settings.batch_size, next(self.family.network.parameters()).device
        chosen = rng.integers(0, len(self.images), size)
        draws = self._draws(rng, size)
        labels = None if self.labels is None else torch.from_numpy(self.labels[chosen])
        for start in range(0, size, most_rows):
            part = slice(start, start + most_rows)
            clean = self._encoded(chosen[part]).to(device)
            yield clean, None if labels is None else labels[part].to(device), _part(draws, part).to(device)

    def _encoded(self, chosen: np.ndarray) -> Tensor:
        return self.family.encode(self.images[chosen]) if self.clean is None else self.clean[chosen]

    def _draws(self, rng: np.random.Generator, count: int) -> Draws:
        """Timesteps are spread over the batch (stratified), as those of a unit are over its rows."""
        objective = self.family.objective
        levels = objective.levels((rng.permutation(count) + rng.random(count)) / count)
        return Draws(
            timesteps=torch.from_numpy(levels),
            noise=torch.from_numpy(rng.standard_normal((count, *self.family.shape), dtype=np.float32)),
            drop_label=torch.from_numpy(rng.random(count) < objective.label_dropout),
        )

    def record(self) -> dict[str, Any]:
        """What a certificate says of them: name, SHA-256 of pixels and labels, how many, and their share."""
        digest = hashlib.sha256(self.images.tobytes())
        digest.update(b"" if self.labels is None else self.labels.astype("<i8").tobytes())
        return {
            "name": Path(self.settings.path).name,
            "sha256": digest.hexdigest(),
            "images": len(self.images),
            "weight": self.settings.weight,
            "batch_size": self.settings.batch_size,
        }


def public_batches(
    settings: PublicSettings | None, family: Family, *, seed: int, recipe: Mapping[str, Any]
) -> PublicBatches | None:
    """Opens the public images of a run; None where it has none. recipe: the run's settings, as a document.

    Raises `DataError` for images or labels that do not fit the model, `ParameterError` for a model that
    learns from texts, and where the public images lie where the private ones do.
    """
    if settings is None:
        return None
    private = (recipe.get("data") or {}).get("path")  # a call in Python has none
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
    clean = _all_encoded(family, opened.images) if family.encodes_once else None
    return PublicBatches(
        family=family,
        images=opened.images,
        labels=labels,
        clean=clean,
        settings=settings,
        seed=seed,
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


def _all_encoded(family: Family, images: np.ndarray) -> Tensor:
    starts = range(0, len(images), ENCODED_AT_ONCE)
    with torch.no_grad():
        return torch.cat([family.encode(images[start : start + ENCODED_AT_ONCE]) for start in starts])


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _part(draws: Draws, part: slice) -> Draws:
    return Draws(timesteps=draws.timesteps[part], noise=draws.noise[part], drop_label=draws.drop_label[part])
