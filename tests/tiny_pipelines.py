"""Tiny diffusers pipelines with random weights, built offline: one function for each kind of pipeline.

Each has a few thousand parameters and makes images of 16 x 16 pixels (Sana 32 x 32); equal arguments give
equal weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

SIZE = 16  # pixels
TOKENS = 24  # of a prompt: a short caption and the name of a class


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


def unigram_tokenizer() -> Any:
    """A tokenizer of single characters, as T5's and Gemma's are for the pipelines: `</s>` ends a text."""
    letters = [(chr(code), -5.0) for code in range(33, 127)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -3.0), *letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def t5(width: int = 16) -> Any:
    """A T5 encoder of one layer."""
    return T5EncoderModel(
        T5Config(vocab_size=98, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.1)
    )


def _diffusion(**options: Any) -> Any:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
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
        scheduler=_diffusion(prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(seed: int = 0, *, zeros: bool = True) -> Any:
    """Stable Diffusion XL, with zeros for an empty prompt or not."""
    torch.manual_seed(seed)
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=_conditional_unet(
            32,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=16 + 6 * 4,
        ),
        scheduler=_diffusion(),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def dit(seed: int = 0, *, classes: int = 3) -> Any:
    """DiT with a learned variance."""
    torch.manual_seed(seed)
    return DiTPipeline(
        transformer=DiTTransformer2DModel(
            sample_size=SIZE // 2,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            num_embeds_ada_norm=classes,
            norm_num_groups=4,
        ),
        vae=autoencoder(),
        scheduler=_diffusion(),
        id2label={number: f"class {number}" for number in range(classes)},
    )


def stable_diffusion_3(seed: int = 0) -> Any:
    """Stable Diffusion 3, with its T5 encoder."""
    torch.manual_seed(seed)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIZE // 2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=SIZE,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift=0.1),
        text_encoder=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(32),
        tokenizer_3=unigram_tokenizer(),
    )


def flux(seed: int = 0, *, distilled: bool = False) -> Any:
    """Flux.1 schnell, or dev with its distilled guidance."""
    torch.manual_seed(seed)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=distilled,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if distilled else 1.0, use_dynamic_shifting=distilled
        ),
        vae=autoencoder(shift=0.1),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=unigram_tokenizer(),
    )


def pixart(seed: int = 0, *, kind: str = "alpha") -> Any:
    """PixArt-alpha with its size conditions, or PixArt-Sigma."""
    torch.manual_seed(seed)
    holder = PixArtAlphaPipeline if kind == "alpha" else PixArtSigmaPipeline
    return holder(
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            sample_size=SIZE // 2,
            caption_channels=16,
            use_additional_conditions=False,
        ),
        scheduler=_diffusion(),
        vae=autoencoder(),
        text_encoder=t5(),
        tokenizer=unigram_tokenizer(),
    )


def sana(seed: int = 0) -> Any:
    """Sana, with the deep autoencoder and a Gemma encoder."""
    torch.manual_seed(seed)
    return SanaPipeline(
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=SIZE,  # of 32 pixels, the least that the pipeline draws
            patch_size=1,
        ),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        vae=AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "ResBlock"),
            decoder_block_types=("ResBlock", "ResBlock"),
            encoder_block_out_channels=(4, 8),
            decoder_block_out_channels=(4, 8),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=98,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=4,
                pad_token_id=0,
                bos_token_id=2,
                eos_token_id=1,
            )
        ),
        tokenizer=unigram_tokenizer(),
    )
