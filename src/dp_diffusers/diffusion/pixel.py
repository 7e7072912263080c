"""Class-conditional pixel models: diffusers' `UNet2DModel`, with or without a patch transform in front.

Guarantee: rows are independent, because the network has no layer that mixes them (the dry run checks it). May
import torch and diffusers, never the engine. With one class embedding more than classes, the last one is the
null class of classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import nn

from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.errors import DataError


class PixelFamily:
    """A `UNet2DModel` on pixels, or on patches of them."""

    def __init__(self, base: Base, *, timesteps: str = "uniform", label_dropout: float = 0.0) -> None:
        self.base = base
        self.null_label = base.classes if base.embeddings > base.classes else None
        self.objective = Objective.of(
            base.scheduler,
            timesteps=timesteps,
            label_dropout=label_dropout if self.null_label is not None else 0.0,
        )

    @classmethod
    def matches(cls, base: Base) -> bool:
        """Whether the network is a `UNet2DModel`."""
        return isinstance(base.unet, UNet2DModel)

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self.base.unet

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one encoded image."""
        side = self.base.size // self.base.patch.size
        return (self.base.channels * self.base.patch.size**2, side, side)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to float32 `[N, c, h, w]` in [-1, 1]. Raises `DataError` for another size."""
        expected = (self.base.size, self.base.size, self.base.channels)
        if images.shape[1:] != expected:
            raise DataError(
                f"expected images of {expected} (height, width, channels), got {images.shape[1:]}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        return self.base.patch.forward(pixels / 127.5 - 1.0).contiguous()

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """float32 `[N, c, h, w]` to uint8 `[N, H, W, C]`, clipped to the range of pixels."""
        pixels = self.base.patch.inverse(encoded.float().cpu()).clamp(-1, 1)
        rounded = ((pixels + 1.0) * 127.5).round().to(torch.uint8)
        return rounded.permute(0, 2, 3, 1).contiguous().numpy()

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The U-Net's output, `[R, c, h, w]`."""
        return self.network(noisy, timesteps, class_labels=labels).sample  # type: ignore[no-any-return]

    def row_losses(self, clean: torch.Tensor, labels: torch.Tensor | None, draws: Draws) -> torch.Tensor:
        """`[R]`, one loss per row; a dropped label becomes the null class."""
        if labels is not None and self.null_label is not None:
            labels = torch.where(draws.drop_label, torch.full_like(labels, self.null_label), labels)
        prediction = self.predict(self.objective.noisy(clean, draws), draws.timesteps, labels)
        return self.objective.losses(prediction, clean, draws)
