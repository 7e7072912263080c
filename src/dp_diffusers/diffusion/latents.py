"""An autoencoder as a fixed pair of functions: images to scaled latents, and back.

Guarantees: encoding draws no random number, since a posterior gives its mean and a codebook is not consulted
yet; the scale is a public constant of the autoencoder's configuration, never that of private images. May
import torch and diffusers, never the engine. Latent diffusion: Rombach et al. (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from dp_diffusers.diffusion.base import config_of
from dp_diffusers.diffusion.pixels import to_images, to_tensor
from dp_diffusers.diffusion.quiet import quiet
from dp_diffusers.errors import DataError, ModelError

MOST_PIXELS: Final = 2**20  # in one pass: speed and memory only
CHUNK: Final = 64  # images in one pass at most
IN_FLOAT32: Final = "have the autoencoder in float32: pipeline.vae.to(torch.float32)"
_BY_CHANNEL: Final = ("latents_mean", "latents_std")  # in an autoencoder's configuration
_FIELDS: Final = ("latent_dist", "latents", "latent")  # what autoencoders call what they give


@dataclass(frozen=True, kw_only=True)
class Latents:
    """`encode` and `decode` of a diffusers autoencoder, KL, VQ or plain.

    A latent is `(z - shift) * scale`, with the configuration's `shift_factor` and `scaling_factor`; or
    `(z - mean) * scale / deviation` by channel, where it has `latents_mean` and `latents_std`.

    normalises: whether the pipeline heeds those two; shifts: whether it heeds `shift_factor`. Raises
    `ModelError` where it would ignore what there is.
    """

    vae: nn.Module
    normalises: bool = False
    shifts: bool = False

    def __post_init__(self) -> None:
        given = [name for name in _BY_CHANNEL if config_of(self.vae).get(name) is not None]
        if given and not (self.normalises and given == list(_BY_CHANNEL)):
            raise ModelError(
                f"the autoencoder {type(self.vae).__name__} has {' and '.join(given)}, "
                "which its pipeline does not heed",
                hint="StableDiffusionXLPipeline heeds the two of them together",
            )
        if self.shift and not self.shifts:
            raise ModelError(
                f"the autoencoder {type(self.vae).__name__} has shift_factor {self.shift}, "
                "which its pipeline does not heed",
                hint="StableDiffusion3Pipeline and FluxPipeline heed it; null is none",
            )

    @property
    def factor(self) -> int:
        """Pixels along the side of one latent position."""
        config = config_of(self.vae)
        widths = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        if not widths:
            raise ModelError(f"the autoencoder {type(self.vae).__name__} does not say how much it shrinks")
        return int(2 ** (len(widths) - 1))

    @property
    def image_channels(self) -> int:
        """Channels of an image: 1 grey, 3 colour."""
        return int(config_of(self.vae).in_channels)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        config = config_of(self.vae)
        return int(config.get("vq_embed_dim") or config.latent_channels)

    def require_channels(self, seen: int) -> None:
        """Raises `ModelError` for a network that sees other channels than latents have."""
        if seen != self.channels:
            raise ModelError(
                f"the network sees {seen} channels, and a latent of its autoencoder has {self.channels}",
                hint="a base that draws images from noise alone: no inpainting, depth or editing",
            )

    @property
    def scale(self) -> float:
        """Brings latents to about unit variance."""
        return float(config_of(self.vae).get("scaling_factor") or 1.0)

    @property
    def shift(self) -> float:
        """The mean that is taken off first; 0 for most autoencoders."""
        return float(config_of(self.vae).get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `[N, H, W, C]` to float32 `[N, c, h, w]` on the CPU.

        Raises `DataError` for images that are not square, of other channels, or no multiple of `factor`.
        """
        size = images.shape[1]
        if size % self.factor:
            raise DataError(f"expected images whose side is a multiple of {self.factor}, got {size}")
        pixels = to_tensor(images, size, self.image_channels)
        encoded = _in_chunks(self.vae, pixels, size, lambda part: _mean(self.vae.encode(part)), whole=True)  # type: ignore[operator]
        mean, deviation = self._by_channel()
        return (encoded - mean) * self.scale / deviation

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """float32 `[N, c, h, w]` to uint8 `[N, H, W, C]`, clipped to the range of pixels.

        Raises `ModelError` where finite latents become pixels that are not, which would be black.
        """
        mean, deviation = self._by_channel()
        unscaled = latents.float() * deviation / self.scale + mean
        side = unscaled.shape[-1] * self.factor
        pixels = _in_chunks(self.vae, unscaled, side, lambda part: self.vae.decode(part).sample)  # type: ignore[operator]
        if latents.isfinite().all() and not pixels.isfinite().all():
            raise ModelError("the autoencoder decodes to values that are not finite", hint=IN_FLOAT32)
        return to_images(pixels)

    def _by_channel(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation that latents are freed of, `[1, c, 1, 1]` each, or numbers for all channels."""
        config = config_of(self.vae)
        if config.get("latents_mean") is None:
            return torch.tensor(self.shift), torch.tensor(1.0)
        mean, deviation = (torch.tensor(config[name], dtype=torch.float32) for name in _BY_CHANNEL)
        return mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)


def _mean(encoded: Any) -> torch.Tensor:
    """The latents of one pass, whatever the autoencoder wraps them in."""
    found = next(getattr(encoded, name) for name in _FIELDS if hasattr(encoded, name))
    return found.mode() if hasattr(found, "mode") and not isinstance(found, torch.Tensor) else found  # type: ignore[no-any-return]


def _filled(part: torch.Tensor, count: int) -> torch.Tensor:
    missing = count - len(part)
    return part if missing <= 0 else torch.cat([part, part.new_zeros(missing, *part.shape[1:])])


@contextmanager
def _upcast(vae: nn.Module) -> Iterator[None]:
    """In float32 for a while, where the configuration says that float16 overflows; as stock pipelines do."""
    coarse = next(vae.parameters()).dtype is torch.float16 and config_of(vae).get("force_upcast")
    if coarse:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if coarse:
            with quiet():  # diffusers would warn of a cast; the values came from there, and none is rounded
                vae.to(torch.float16)


def _in_chunks(
    vae: nn.Module,
    inputs: torch.Tensor,
    side: int,
    function: Callable[[torch.Tensor], torch.Tensor],
    *,
    whole: bool = False,
) -> torch.Tensor:
    """float32 on the CPU, of one input at least; the autoencoder works where it lies, without dropout.

    side: of an image in pixels. whole: the last chunk is as large as the others, filled up with blanks, so
    that how many images there are chooses no other kernel, which rounds in another way, for any of them.
    """
    chunk = max(1, min(CHUNK, MOST_PIXELS // side**2))
    training = vae.training
    vae.eval()
    try:
        with _upcast(vae):
            place = next(vae.parameters())
            done = [
                function(_filled(part, chunk if whole else 0).to(place))[: len(part)].float().cpu()
                for part in torch.split(inputs, chunk)
            ]
    finally:
        vae.train(training)
    return torch.cat(done)
