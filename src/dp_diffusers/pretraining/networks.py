"""Fresh networks of a public pre-training: the diffusion model, and the autoencoder in front of it.

Guarantee: what is made depends on settings and a public seed alone. May import torch and diffusers. Both are
stock diffusers classes; the U-Net is that of Ho et al. (2020), the autoencoders those of Rombach et al.
(2022) without attention, so that an autoencoder works on images of any size.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel
from torch import nn

from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.latent import AUTOENCODER, PIPELINE
from dp_diffusers.diffusion.latents import Latents
from dp_diffusers.diffusion.patch import Patch
from dp_diffusers.errors import ModelError
from dp_diffusers.recipe import AutoencoderSettings, ModelSettings


def new_base(
    model: ModelSettings, class_names: tuple[str, ...], *, seed: int, autoencoder: nn.Module | None = None
) -> Base:
    """A freshly initialised base, on the latents of `autoencoder` where there is one.

    Raises `ModelError` when sizes do not fit each other.
    """
    factor = Latents(vae=autoencoder).factor if autoencoder else model.patch
    channels = Latents(vae=autoencoder).channels if autoencoder else model.channels * model.patch**2
    if model.size % (factor * 2 ** (len(model.widths) - 1)):
        raise ModelError(
            f"size {model.size} cannot be halved {len(model.widths) - 1} times after a factor of {factor}",
            hint="fewer widths, or a smaller patch or factor",
        )
    names = class_names if model.conditional else ()
    torch.manual_seed(seed)
    return Base(
        network=_unet(model, side=model.size // factor, channels=channels, classes=len(names)),
        # an autoencoder's latents leave [-1, 1], and a stock sampler must not clip them
        scheduler=DDPMScheduler(
            num_train_timesteps=model.train_steps,
            beta_schedule=model.schedule,
            prediction_type=model.prediction,
            clip_sample=autoencoder is None,
        ),
        pipeline=PIPELINE if autoencoder else "DDPMPipeline",
        parts={AUTOENCODER: autoencoder} if autoencoder else {},
        patch=Patch(size=model.patch),
        class_names=names or None,
    )


def _unet(model: ModelSettings, *, side: int, channels: int, classes: int) -> UNet2DModel:
    kinds = [("AttnDownBlock2D" if on else "DownBlock2D") for on in model.attention]
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(model.widths),
        layers_per_block=model.layers,
        down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        norm_num_groups=model.norm_groups,
        attention_head_dim=model.attention_head_dim,
        num_class_embeds=classes + 1 if classes else None,
    )


def new_autoencoder(settings: AutoencoderSettings, model: ModelSettings, *, seed: int) -> nn.Module:
    """A freshly initialised autoencoder for the images of `model`."""
    torch.manual_seed(seed)
    levels = len(settings.widths)
    shape: dict[str, Any] = {
        "in_channels": model.channels,
        "out_channels": model.channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(settings.widths),
        "layers_per_block": settings.layers,
        "latent_channels": settings.latent_channels,
        "norm_num_groups": settings.norm_groups,
        "sample_size": model.size,
        "scaling_factor": 1.0,
        "mid_block_add_attention": False,
    }
    if settings.kind == "vq":
        return VQModel(**shape, num_vq_embeddings=settings.codebook)  # type: ignore[no-any-return]
    return AutoencoderKL(**shape, force_upcast=False)  # type: ignore[no-any-return]
