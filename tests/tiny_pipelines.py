"""Tiny diffusers pipelines with random weights, built offline: one function for each kind of pipeline.

Each has a few thousand parameters and makes images of 16 x 16 pixels; equal arguments give equal weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

SIZE = 16  # pixels
TOKENS = 8  # of a prompt


@lru_cache(maxsize=1)
def _clip_vocabulary() -> dict[str, int]:
    """Single characters, inside and at the end of a word, and the two marks of a text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def clip_tokenizer() -> Any:
    """A CLIP tokenizer that knows single characters."""
    return CLIPTokenizer(vocab=dict(_clip_vocabulary()), merges=[], model_max_length=TOKENS)


def clip_config(width: int = 16, projection: int = 16) -> Any:
    """Of a CLIP text encoder of two layers."""
    count = len(_clip_vocabulary())
    return CLIPTextConfig(
        vocab_size=count,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=projection,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )


def autoencoder(latent: int = 4, *, shift: float | None = None) -> Any:
    """A KL autoencoder of colour images that halves their sides."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=latent,
        norm_num_groups=2,
        sample_size=SIZE,
        scaling_factor=0.5,
        shift_factor=shift,
        mid_block_add_attention=False,
    )


def _conditional_unet(width: int, **options: Any) -> Any:
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=width,
        **options,
    )


def stable_diffusion(seed: int = 0, *, prediction: str = "epsilon") -> Any:
    """Stable Diffusion 1.5 (noise prediction) or 2.1 (velocity)."""
    torch.manual_seed(seed)
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        unet=_conditional_unet(16),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


_ = DDPMScheduler
