"""Tiny latent models with random weights: an autoencoder and a U-Net on its latents."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel

from dp_diffusers.diffusion.base import Base


def tiny_autoencoder(kind: str = "kl", *, channels: int = 1, size: int = 16, scale: float = 0.7) -> Any:
    """An autoencoder of factor 2 with 4 latent channels, `kl` or `vq`, without a shift."""
    shapes: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "sample_size": size,
        "scaling_factor": scale,
        "mid_block_add_attention": False,
    }
    return VQModel(**shapes, num_vq_embeddings=16) if kind == "vq" else AutoencoderKL(**shapes)


def tiny_latent_base(
    autoencoder: str = "kl",
    *,
    seed: int = 0,
    classes: int = 3,
    prediction: str = "v_prediction",
    size: int = 8,
    channels: int = 1,
) -> Base:
    """A latent model of `size` x `size` images, the same one for the same arguments."""
    torch.manual_seed(seed)
    vae = tiny_autoencoder(autoencoder, channels=channels, size=size)
    unet = UNet2DModel(
        sample_size=size // 2,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=classes + 1 if classes else None,
    )
    return Base(
        network=unet,
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False
        ),
        pipeline="LDMPipeline",
        parts={"vqvae": vae},
        class_names=tuple(f"class {index}" for index in range(classes)) or None,
    )
