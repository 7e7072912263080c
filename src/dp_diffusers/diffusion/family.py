"""What the training loop and the generator need of a model, whatever its kind.

Guarantee: a family returns one loss per row and never mixes rows, so that the engine can bound what each
owner adds. May import torch, never the engine or the accountant. A new kind of model is one file and one line
in `FAMILIES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import nn

from dp_diffusers.diffusion.base import Base, config_of
from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.errors import ModelError, ParameterError

FAMILIES: Final[dict[str, str]] = {
    "pixel": "dp_diffusers.diffusion.pixel:PixelFamily",
    "latent": "dp_diffusers.diffusion.latent:LatentFamily",
    "dit": "dp_diffusers.diffusion.dit:DiTFamily",
    "stable_diffusion": "dp_diffusers.diffusion.stable_diffusion:StableDiffusionFamily",
    "stable_diffusion_xl": "dp_diffusers.diffusion.stable_diffusion_xl:StableDiffusionXLFamily",
    "stable_diffusion_3": "dp_diffusers.diffusion.stable_diffusion_3:StableDiffusion3Family",
    "flux": "dp_diffusers.diffusion.flux:FluxFamily",
    "pixart": "dp_diffusers.diffusion.pixart:PixArtFamily",
    "sana": "dp_diffusers.diffusion.sana:SanaFamily",
}

MOST_POSITIONS: Final = 2**18  # of one pass of a sampler, in what the network sees


class Family(ABC):
    """A kind of diffusion model.

    A label is the number of a condition: of a class embedding, or of an encoded prompt. `null_label` is the
    number of no condition at all, None for a model that knows none. `size` asks for images of another size
    than the model's own; raises `ParameterError` where that cannot be.
    """

    takes_text: ClassVar[bool] = False
    """Whether labels are numbers of prompts, given by `set_prompts`, instead of classes of the base."""
    encodes_once: ClassVar[bool] = False
    """Whether `encode` costs so much that a run does it once and keeps the result."""
    clips: ClassVar[bool] = False
    """Whether clean samples lie in [-1, 1], so that a sampler may clip to it."""

    pipelines: ClassVar[tuple[str, ...]] = ()
    """Names of the diffusers pipelines whose network the family can call."""
    drawn_by_pipeline: ClassVar[tuple[str, ...] | None] = None
    """What its stock pipeline is called with beside conditions, steps and size, to draw without guidance;
    None where no stock pipeline draws what was trained."""

    base: Base
    objective: Objective
    asked_size: int | None

    def __init__(
        self,
        base: Base,
        *,
        timesteps: str = "uniform",
        label_dropout: float = 0.0,
        size: int | None = None,
    ) -> None:
        self.base = base
        self.asked_size = size
        self._require_labels_of_a_table()
        if size is not None and not self.takes_size(size):
            raise ParameterError(
                f"the base model takes no images of {size} x {size} pixels", hint=self.size_hint()
            )
        dropout = label_dropout if self.null_label is not None else 0.0
        self.objective = Objective.of(base.scheduler, timesteps=timesteps, label_dropout=dropout)

    @classmethod
    @abstractmethod
    def matches(cls, base: Base) -> bool:
        """Whether this family knows the model."""

    @property
    def network(self) -> nn.Module:
        """The module that strategies adapt and the loop trains."""
        return self.base.network

    @property
    @abstractmethod
    def size(self) -> int:
        """Height and width of an image in pixels."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of an image."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one encoded image."""

    @property
    def images_at_once(self) -> int:
        """How many images a sampler should draw in one pass; speed and memory only."""
        _, height, width = self.shape
        return max(1, MOST_POSITIONS // (height * width))

    @property
    def classes(self) -> int:
        """Number of conditions that images are of; 0 for an unconditional model."""
        return self.base.classes

    def takes_size(self, size: int) -> bool:
        """Whether images of `size` pixels can be trained on."""
        return size == self.size

    def size_hint(self) -> str:
        """What to do about a size that does not fit."""
        return f"leave data.size out: its images have {self.size} pixels"

    @property
    def null_label(self) -> int | None:
        """With more class embeddings than classes, the last one is the null class."""
        return self.base.embeddings - 1 if self.base.embeddings > self.base.classes else None

    def set_prompts(self, prompts: Sequence[str], *, cache: Path | None = None) -> None:
        """Encodes the prompts, once; label i means `prompts[i]`, and `null_label` the empty prompt.

        cache: folder in which many encodings are kept, of a run's safe. Raises `ParameterError` for a model
        that takes no text.
        """
        del prompts, cache
        raise ParameterError("the base model takes no prompts", hint="leave caption and prompts out")

    def alike(self) -> tuple[int, int] | None:
        """The first two prompts that are one condition; None where all differ, or there are none."""
        return None

    @abstractmethod
    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to what the network sees, float32 `[N, c, h, w]`, on the CPU."""

    @abstractmethod
    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """Back from `encode`, rounded to uint8 `[N, H, W, C]`."""

    @abstractmethod
    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The network's output, `[R, c, h, w]`. times `[R]`: as the schedule counts them; labels: `[R]`."""

    def like_network(self, values: torch.Tensor) -> torch.Tensor:
        """The values in the network's number type."""
        first = next(value.dtype for value in self.network.parameters() if value.is_floating_point())
        if first.itemsize > 1:  # asking diffusers takes milliseconds: it looks through all modules
            return values.to(first)
        network: Any = self.network
        return values.to(network.dtype)

    def sampler_options(self, steps: int) -> Mapping[str, Any]:
        """What the flow sampler's `set_timesteps` needs of this model, beside the number of steps."""
        del steps
        return {}

    def guided(
        self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None, guidance: float
    ) -> torch.Tensor:
        """`predict` under classifier-free guidance (Ho & Salimans 2022); 1 is none, and costs no more."""
        if guidance == 1.0 or labels is None or self.null_label is None:
            return self.predict(noisy, times, labels)
        null = torch.full_like(labels, self.null_label)
        both = self.predict(noisy.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def row_losses(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> torch.Tensor:
        """`[R]`, one loss per row; a dropped label becomes the null label."""
        if labels is not None and self.null_label is not None:
            labels = torch.where(draws.drop_label, torch.full_like(labels, self.null_label), labels)
        times = self.objective.times_of(draws)
        prediction = self.predict(self.objective.noisy(clean, draws), times, labels)
        if prediction.shape != clean.shape:
            raise ModelError(
                f"the {self.base.component} gives {prediction.shape[1]} channels and sees {clean.shape[1]}",
                hint="a base that predicts what goes in and no variance beside it",
            )
        return self.objective.losses(prediction, clean, draws)

    def _require_labels_of_a_table(self) -> None:
        """Raises `ModelError` where the network would wait for labels that nothing here gives it."""
        layer = getattr(self.network, "class_embedding", None)
        if layer is not None and (self.takes_text or not self.base.embeddings):
            kind = config_of(self.network).get("class_embed_type")
            raise ModelError(
                f"the {self.base.component} takes other labels than numbers (class_embed_type {kind})",
                hint="a base with num_class_embeds, or without labels",
            )


def family_of(base: Base, **options: Any) -> Family:
    """The family that knows the model. Raises `ModelError` when none does."""
    known: list[str] = []
    for target in FAMILIES.values():
        module, name = target.split(":")
        family = getattr(import_module(module), name)
        if family.matches(base):
            return family(base, **options)  # type: ignore[no-any-return]
        known += family.pipelines
    raise ModelError(
        f"no model family knows {type(base.network).__name__} in a {base.pipeline}",
        hint=f"known: {', '.join(known)}",
    )
