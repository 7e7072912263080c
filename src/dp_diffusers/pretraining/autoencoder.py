"""The first stage of a latent pre-training: an autoencoder of public images.

Guarantees: nothing private is read; the scale of the latents is taken from public images and written into the
autoencoder's configuration; a step is a function of (seed, step). May import torch and diffusers. KL latents
after Kingma & Welling (2014) and Rombach et al. (2022), a codebook after van den Oord et al. (2017), the loss
on image gradients after Mathieu et al. (2016); no network of others is needed to judge an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.diffusion.latents import Latents
from dp_diffusers.diffusion.pixels import to_tensor
from dp_diffusers.recipe import AutoencoderSettings

STREAM: Final = 1  # keeps the draws of this stage apart from those of the diffusion model
FOR_SCALE: Final = 2000  # images that the scale of the latents is taken from
SCALES: Final = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class AutoencoderLoss:
    """The loss of a step. vae: an `AutoencoderKL` or a `VQModel`; flip: mirror half of the images."""

    vae: Any
    images: PublicImages
    settings: AutoencoderSettings
    seed: int
    flip: bool = False

    def __call__(self, step: int) -> torch.Tensor:
        """The mean over a batch: absolute error, error of details, and what keeps latents in shape."""
        rng = np.random.default_rng([self.seed, step, STREAM])
        images = self.pixels(rng)
        return self._of_codes(images, step) if self.settings.kind == "vq" else self._of_gaussians(images, rng)

    def pixels(self, rng: np.random.Generator) -> torch.Tensor:
        """float32 `[N, C, H, W]` in [-1, 1]: the batch of a step."""
        chosen = self.images.images[self.images.choose(rng, self.settings.batch_size)]
        if self.flip:
            mirrored = rng.random(len(chosen)) < 0.5
            chosen[mirrored] = chosen[mirrored, :, ::-1]
        device = next(self.vae.parameters()).device
        return to_tensor(chosen, chosen.shape[1], chosen.shape[3]).to(device)

    def _of_gaussians(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        posterior = self.vae.encode(images).latent_dist
        noise = torch.from_numpy(rng.standard_normal(tuple(posterior.mean.shape), dtype=np.float32))
        drawn = posterior.mean + posterior.std * noise.to(images.device)
        divergence: torch.Tensor = posterior.kl().sum() / images.numel()
        return self._error(self.vae.decode(drawn).sample, images) + self.settings.kl_weight * divergence

    def _of_codes(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Without the codebook at first: codes are chosen from latents that mean something."""
        encoded = self.vae.encode(images).latents
        if step < codebook_step(self.settings):
            return self._error(self.vae.decode(encoded, force_not_quantize=True).sample, images)
        decoded = self.vae.decode(encoded)
        commitment: torch.Tensor = decoded.commit_loss
        return self._error(decoded.sample, images) + commitment

    def _error(self, decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        error = (decoded - images).abs().mean()
        if not self.settings.detail_weight:
            return error
        return error + self.settings.detail_weight * detail_error(decoded, images)


def detail_error(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the differences of neighbouring pixels, at three scales; zero if equal."""
    total = torch.zeros((), device=one.device)
    for scale in SCALES:
        apart = functional.avg_pool2d(one - other, scale)
        total = total + apart.diff(dim=2).abs().mean() + apart.diff(dim=3).abs().mean()
    return total / len(SCALES)


def codebook_step(settings: AutoencoderSettings) -> int:
    """The step at which the codebook is filled: a tenth of the way."""
    return settings.steps // 10


@torch.no_grad()
def fill_codebook(loss: AutoencoderLoss, step: int) -> None:
    """At its step, puts latents of public images into the codebook; a random one is hardly ever used."""
    if loss.settings.kind != "vq" or step != codebook_step(loss.settings):
        return
    rng = np.random.default_rng([loss.seed, step, STREAM, 1])
    codes = loss.vae.quantize.embedding.weight
    encoded = loss.vae.encode(loss.pixels(rng)).latents.permute(0, 2, 3, 1).reshape(-1, codes.shape[1])
    codes.copy_(encoded[rng.integers(0, len(encoded), len(codes))])


def set_scale(vae: nn.Module, images: PublicImages, *, seed: int) -> None:
    """Writes 1 / standard deviation of latents of public images into the configuration."""
    rng = np.random.default_rng([seed, STREAM])
    chosen = images.images[images.choose(rng, FOR_SCALE)]
    vae.register_to_config(scaling_factor=1.0)  # type: ignore[operator]
    deviation = float(Latents(vae=vae).encode(chosen).std())
    vae.register_to_config(scaling_factor=1.0 / max(deviation, 1e-6))  # type: ignore[operator]
