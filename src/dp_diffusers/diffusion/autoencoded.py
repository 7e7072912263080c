"""Families whose network sees the latents of the pipeline's autoencoder, called `vae`.

Guarantee: an image's latents are a function of that image and public weights, never sampled. May import torch
and diffusers, never the engine. Latent diffusion: Rombach et al. (2022).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from dp_diffusers.diffusion.base import Base, config_of, side_of
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.latents import Latents
from dp_diffusers.errors import DataError

AUTOENCODER = "vae"


class AutoencodedFamily(Family):
    """What networks on latents have in common; a subclass says which pipelines are its own, and `predict`."""

    encodes_once: ClassVar[bool] = True
    drawn_by_pipeline: ClassVar[tuple[str, ...] | None] = ("guidance_scale=1.0,",)
    network_kind: ClassVar[type[torch.nn.Module]]
    """The class of that network."""
    normalises_latents: ClassVar[bool] = False
    """Whether its stock pipeline takes mean and deviation of each latent channel from the autoencoder."""
    shifts_latents: ClassVar[bool] = False
    """Whether its stock pipeline takes `shift_factor` from the autoencoder."""

    def __init__(self, base: Base, **options: Any) -> None:
        self.base = base
        self.latents.require_channels(self.latent_channels)  # `latents` refuses what its pipeline ignores
        super().__init__(base, **options)

    @classmethod
    def matches(cls, base: Base) -> bool:
        """Whether the pipeline is one of the family's, with its autoencoder."""
        known = base.pipeline in cls.pipelines and isinstance(base.network, cls.network_kind)
        return known and AUTOENCODER in base.parts

    @property
    def latents(self) -> Latents:
        """The autoencoder, as two functions."""
        return Latents(
            vae=self.base.parts[AUTOENCODER], normalises=self.normalises_latents, shifts=self.shifts_latents
        )

    @property
    def granularity(self) -> int:
        """An image's side is a multiple of it."""
        return self.latents.factor * int(config_of(self.network).get("patch_size") or 1)

    @property
    def native_size(self) -> int:
        """Height and width of the images that the model was made for."""
        return side_of(self.network) * self.latents.factor

    @property
    def size(self) -> int:
        """Height and width of an image in pixels: as asked for, or the model's own."""
        return self.asked_size or self.native_size

    @property
    def images_at_once(self) -> int:
        """Four of 512 pixels, one of 1024 and more: these networks are large."""
        return max(1, 2**14 // (self.shape[1] * self.shape[2]))

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.latents.image_channels

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(config_of(self.network).in_channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one encoded image."""
        side = self.size // self.latents.factor
        return (self.latent_channels, side, side)

    def takes_size(self, size: int) -> bool:
        """Whether images of `size` pixels are a whole number of the network's patches."""
        return size > 0 and size % self.granularity == 0

    def size_hint(self) -> str:
        """What to do about a size that does not fit."""
        return f"a multiple of {self.granularity}; left out, data.size is {self.native_size}"

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to float32 `[N, c, h, w]`. Raises `DataError` for another size."""
        if images.shape[1] != self.size:
            raise DataError(f"expected images of {self.size} x {self.size} pixels, got {images.shape[1:3]}")
        return self._placed().encode(images)

    def decode(self, encoded: torch.Tensor) -> np.ndarray:
        """float32 `[N, c, h, w]` to uint8 `[N, H, W, C]`, clipped to the range of pixels."""
        return self._placed().decode(encoded)

    def _placed(self) -> Latents:
        """The autoencoder, on the network's device."""
        latents = self.latents
        device = next(self.network.parameters()).device
        if next(latents.vae.parameters()).device != device:  # asking every module to move takes milliseconds
            latents.vae.to(device)
        return latents
