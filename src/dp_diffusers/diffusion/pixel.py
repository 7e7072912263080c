"""Pixel models: diffusers' `UNet2DModel`, with or without classes and a patch transform in front.

Guarantee: rows are independent, because the network has no layer that mixes them (the dry run checks it). May
import torch and diffusers, never the engine. With one class embedding more than classes, the last one is the
null class of classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from diffusers import UNet2DModel

from dp_diffusers.diffusion.base import Base, config_of, side_of
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.pixels import to_images, to_tensor


class PixelFamily(Family):
    """A `UNet2DModel` on pixels, or on patches of them."""

    clips: ClassVar[bool] = True
    pipelines: ClassVar[tuple[str, ...]] = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")

    @classmethod
    def matches(cls, base: Base) -> bool:
        """Whether the network is a `UNet2DModel` without an autoencoder, in a pipeline that calls it so."""
        known = base.pipeline in cls.pipelines
        return known and isinstance(base.network, UNet2DModel) and not base.parts

    @property
    def size(self) -> int:
        """Height and width of an image in pixels, before the patch transform."""
        return side_of(self.network) * self.base.patch.size

    @property
    def channels(self) -> int:
        """Channels of an image, before the patch transform."""
        return int(config_of(self.network).in_channels) // self.base.patch.size**2

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one encoded image."""
        side = self.size // self.base.patch.size
        return (self.channels * self.base.patch.size**2, side, side)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to float32 `[N, c, h, w]` in [-1, 1]. Raises `DataError` for another size."""
        return self.base.patch.forward(to_tensor(images, self.size, self.channels)).contiguous()

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """float32 `[N, c, h, w]` to uint8 `[N, H, W, C]`, clipped to the range of pixels."""
        return to_images(self.base.patch.inverse(encoded.float().cpu()))

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The U-Net's output, `[R, c, h, w]`."""
        return self.network(self.like_network(noisy), times, class_labels=labels).sample  # type: ignore[no-any-return]
