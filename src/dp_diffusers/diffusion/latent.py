"""Latent models: diffusers' `UNet2DModel` on the latents of an autoencoder, with or without classes.

Guarantee: rows are independent, and an image's latents are a function of that image and public weights. May
import torch and diffusers, never the engine. The folder is that of diffusers' `LDMPipeline`, whose
autoencoder is called `vqvae` whatever its kind (Rombach et al. 2022).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel

from dp_diffusers.diffusion.base import Base, config_of, side_of
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.latents import Latents
from dp_diffusers.errors import DataError

PIPELINE = "LDMPipeline"
AUTOENCODER = "vqvae"


class LatentFamily(Family):
    """A `UNet2DModel` behind an autoencoder that is never trained privately."""

    encodes_once: ClassVar[bool] = True
    pipelines: ClassVar[tuple[str, ...]] = (PIPELINE,)

    def __init__(self, base: Base, **options: Any) -> None:
        self.base = base
        # `latents` refuses statistics that its pipeline ignores
        self.latents.require_channels(int(config_of(base.network).in_channels))
        super().__init__(base, **options)

    @classmethod
    def matches(cls, base: Base) -> bool:
        """Whether it is an `LDMPipeline` of a `UNet2DModel` and an autoencoder."""
        (part,) = base.parts.values() if len(base.parts) == 1 else (None,)
        known = base.pipeline in cls.pipelines and isinstance(base.network, UNet2DModel)
        return known and isinstance(part, AutoencoderKL | VQModel)

    @property
    def latents(self) -> Latents:
        """The autoencoder, as two functions."""
        (vae,) = self.base.parts.values()
        return Latents(vae=vae)

    @property
    def size(self) -> int:
        """Height and width of an image in pixels."""
        return self.shape[1] * self.latents.factor

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.latents.image_channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one encoded image."""
        side = side_of(self.network)
        return (int(config_of(self.network).in_channels), side, side)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to float32 `[N, c, h, w]`. Raises `DataError` for another size."""
        if images.shape[1] != self.size:
            raise DataError(f"expected images of {self.size} x {self.size} pixels, got {images.shape[1:3]}")
        return self._placed().encode(images)

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """float32 `[N, c, h, w]` to uint8 `[N, H, W, C]`, clipped to the range of pixels."""
        return self._placed().decode(encoded)

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The U-Net's output, `[R, c, h, w]`."""
        return self.network(self.like_network(noisy), times, class_labels=labels).sample  # type: ignore[no-any-return]

    def _placed(self) -> Latents:
        """The autoencoder, on the network's device."""
        latents = self.latents
        device = next(self.network.parameters()).device
        if next(latents.vae.parameters()).device != device:  # asking every module to move takes milliseconds
            latents.vae.to(device)
        return latents
