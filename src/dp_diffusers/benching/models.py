"""The models that are timed: one function a family, built from a configuration, no hub and no file.

Guarantees equal weights for equal calls. May import torch and diffusers, never the engine or the accountant.
Large enough that sixteen rows of a plain LoRA step take 0.3 s of one CPU core and more, so that what a step
costs once does not decide; `tiny` ones have the same layers and are for comparing gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)

from dp_diffusers.benching.tables import TensorTable
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.text import TextFamily
from dp_diffusers.errors import unknown_name

CLASSES: Final = 10
_TOKENS: Final = 32  # of a prompt
_NAMES: Final = tuple(str(number) for number in range(CLASSES))


def family(name: str, *, tiny: bool = False) -> Family:
    """A model of the family, in training mode, with classes or encoded prompts; random weights."""
    if name not in _MODELS:
        raise unknown_name("family", name, _MODELS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base, columns = _MODELS[name](tiny)
        for parameter in base.network.parameters():  # no layer is silent because it starts at zero
            parameter.data += 0.02 * torch.randn_like(parameter)
    made = family_of(base)
    if isinstance(made, TextFamily):
        made.use_encoded(_NAMES, TensorTable(columns=columns))
    made.network.train()
    return made


def _text(width: int, *, pooled: int | None = None) -> dict[str, torch.Tensor]:
    """Encodings of the prompts and of the empty one, as an encoder of that width would give them."""
    columns = {"text": torch.randn(CLASSES + 1, _TOKENS, width)}
    return columns if pooled is None else columns | {"pooled": torch.randn(CLASSES + 1, pooled)}


def _pixel(tiny: bool) -> tuple[Base, dict[str, torch.Tensor]]:
    """32 x 32 colour images, attention at two resolutions."""
    network = UNet2DModel(
        sample_size=8 if tiny else 32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16) if tiny else (32, 48, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("AttnDownBlock2D",) * (1 if tiny else 2)),
        up_block_types=(*("AttnUpBlock2D",) * (1 if tiny else 2), "UpBlock2D"),
        norm_num_groups=4 if tiny else 16,
        attention_head_dim=8,
        num_class_embeds=CLASSES + 1,
    )
    return Base(network=network, scheduler=_betas(), class_names=_NAMES), {}


def _latent(tiny: bool) -> tuple[Base, dict[str, torch.Tensor]]:
    """Latents of 64 x 64 colour images."""
    network = UNet2DModel(
        sample_size=8 if tiny else 16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16) if tiny else (48, 96, 160),
        layers_per_block=1,
        down_block_types=("AttnDownBlock2D",) * (2 if tiny else 3),
        up_block_types=("AttnUpBlock2D",) * (2 if tiny else 3),
        norm_num_groups=4 if tiny else 16,
        attention_head_dim=8,
        num_class_embeds=CLASSES + 1,
    )
    parts = {"vqvae": autoencoder(tiny)}
    return Base(
        network=network, scheduler=_betas(), pipeline="LDMPipeline", parts=parts, class_names=_NAMES
    ), {}


def _stable_diffusion(tiny: bool) -> tuple[Base, dict[str, torch.Tensor]]:
    """A U-Net with cross-attention, as of Stable Diffusion 1.5."""
    width = 16 if tiny else 128
    network = UNet2DConditionModel(
        sample_size=8 if tiny else 16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16) if tiny else (48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        norm_num_groups=4 if tiny else 16,
        attention_head_dim=8,
        cross_attention_dim=width,
    )
    parts = {"vae": autoencoder(tiny)}
    return Base(network=network, scheduler=_betas(), pipeline="StableDiffusionPipeline", parts=parts), _text(
        width
    )


def _dit(tiny: bool) -> tuple[Base, dict[str, torch.Tensor]]:
    """A transformer of classes."""
    network = DiTTransformer2DModel(
        sample_size=8 if tiny else 16,
        num_attention_heads=2 if tiny else 6,
        attention_head_dim=8 if tiny else 48,
        in_channels=4,
        out_channels=8,
        num_layers=2 if tiny else 6,
        num_embeds_ada_norm=CLASSES,
        norm_num_groups=4 if tiny else 32,
    )
    return _on_latents(network, _betas(), "DiTPipeline", tiny, class_names=_NAMES), {}


def _stable_diffusion_3(tiny: bool) -> tuple[Base, dict[str, torch.Tensor]]:
    """A flow transformer of picture and text."""
    width, pooled = (16, 16) if tiny else (128, 64)
    network = SD3Transformer2DModel(
        sample_size=8 if tiny else 16,
        in_channels=4,
        out_channels=4,
        num_layers=2 if tiny else 5,
        attention_head_dim=8 if tiny else 48,
        num_attention_heads=2 if tiny else 5,
        joint_attention_dim=width,
        caption_projection_dim=16 if tiny else 240,
        pooled_projection_dim=pooled,
        pos_embed_max_size=16,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return _on_latents(network, scheduler, "StableDiffusion3Pipeline", tiny), _text(width, pooled=pooled)


def _on_latents(network: Any, scheduler: Any, pipeline: str, tiny: bool, **options: Any) -> Base:
    parts = {"vae": autoencoder(tiny)}
    return Base(
        network=network,
        scheduler=scheduler,
        component="transformer",
        pipeline=pipeline,
        parts=parts,
        **options,
    )


@lru_cache(maxsize=2)
def autoencoder(tiny: bool) -> Any:
    """Of colour images: a quarter of their side by 128 to 512 channels, as is usual (tiny: a half, by 8).

    One for all models, since nobody trains it; without a decoder, which no step needs.
    """
    widths, groups = ((4, 8), 2) if tiny else ((128, 256, 512), 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=1 if tiny else 2,
            latent_channels=4,
            norm_num_groups=groups,
            sample_size=16 if tiny else 64,
            scaling_factor=0.5,
            mid_block_add_attention=False,
        )
    made.decoder = torch.nn.Identity()
    return made.requires_grad_(False)


def _betas() -> Any:
    return DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )


_MODELS: Final[dict[str, Callable[[bool], tuple[Base, dict[str, torch.Tensor]]]]] = {
    "pixel": _pixel,
    "latent": _latent,
    "stable_diffusion": _stable_diffusion,
    "dit": _dit,
    "stable_diffusion_3": _stable_diffusion_3,
}
