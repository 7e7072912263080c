"""What the training loop and the generator need of a model, whatever its kind.

Guarantee: a family returns one loss per row and never mixes rows, so that the engine can bound what each
owner adds. May import torch, never the engine or the accountant. A new kind of model is one file and one line
in `FAMILIES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.errors import ModelError

FAMILIES: dict[str, str] = {"pixel": "dp_diffusers.diffusion.pixel:PixelFamily"}


class Family(Protocol):
    """A kind of diffusion model."""

    base: Base
    null_label: int | None
    objective: Objective

    @classmethod
    def matches(cls, base: Base) -> bool:
        """Whether this family knows the model."""

    @property
    def network(self) -> nn.Module:
        """The module that strategies adapt and the loop trains."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one encoded image."""

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to what the network sees, float32 `[N, c, h, w]`."""

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """The inverse of `encode`, rounded to uint8 `[N, H, W, C]`."""

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The network's output, `[R, c, h, w]`."""

    def row_losses(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> torch.Tensor:
        """`[R]`, one loss per row."""


def family_of(base: Base, **options: Any) -> Family:
    """The family that knows the model. Raises `ModelError` when none does."""
    for target in FAMILIES.values():
        module, name = target.split(":")
        family = getattr(import_module(module), name)
        if family.matches(base):
            return family(base, **options)  # type: ignore[no-any-return]
    raise ModelError(
        f"no model family knows {type(base.unet).__name__}", hint=f"known: {', '.join(FAMILIES)}"
    )
