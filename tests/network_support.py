"""Tiny random networks of diffusers' classes, each with losses on prepared random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ROWS = 4
Losses = Callable[[torch.Tensor], torch.Tensor]


def _unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=4,
    )


def _conditional_unet(**options: Any) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=8,
        **options,
    )


def _dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=4,
    )


def _pixart() -> nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=4,
        patch_size=2,
        caption_channels=8,
        use_additional_conditions=False,
    )


def _sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )


def _flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": _unet,
    "conditional unet": _conditional_unet,
    "dit": _dit,
    "pixart": _pixart,
    "sd3": _sd3,
    "flux": _flux,
}


def network_of(kind: str, seed: int = 0) -> nn.Module:
    """The network of a kind, the same one for the same seed, in evaluation mode (no label is dropped)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[kind]().eval()


def _inputs(kind: str) -> dict[str, torch.Tensor]:
    """Arguments of `forward`, one row of each for every row."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(ROWS, *shape, generator=generator)

    images = normal(4, 4, 4)
    times = torch.tensor([1, 300, 600, 900])[:ROWS]
    classes = torch.arange(ROWS) % 3
    text, pooled = normal(3, 8), normal(8)
    if kind == "unet":
        return {"sample": images, "timestep": times, "class_labels": classes}
    if kind == "conditional unet":
        return {"sample": images, "timestep": times, "encoder_hidden_states": text}
    if kind == "dit":
        return {"hidden_states": images, "timestep": times, "class_labels": classes}
    if kind == "pixart":
        return {"hidden_states": images, "timestep": times, "encoder_hidden_states": text}
    if kind == "sd3":
        return {
            "hidden_states": images,
            "timestep": times,
            "encoder_hidden_states": text,
            "pooled_projections": pooled,
        }
    return {
        "hidden_states": normal(16, 4),
        "timestep": times / 1000,
        "encoder_hidden_states": text,
        "pooled_projections": pooled,
    }


def output_of(kind: str, network: nn.Module, rows: torch.Tensor | None = None) -> torch.Tensor:
    """What the network makes of the prepared rows."""
    chosen = torch.arange(ROWS) if rows is None else rows
    inputs: dict[str, Any] = {name: value[chosen] for name, value in _inputs(kind).items()}
    if kind == "flux":
        places = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(4), torch.arange(4), indexing="ij"))
        inputs |= {"img_ids": places.flatten(1).T.float(), "txt_ids": torch.zeros(3, 3)}
    if kind == "pixart":
        inputs["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    return torch.as_tensor(network(**inputs).sample)


def losses_of(kind: str, network: nn.Module) -> Losses:
    """One loss per row, for the dry run."""
    target = torch.randn(output_of(kind, network).shape, generator=torch.Generator().manual_seed(1))

    def losses(rows: torch.Tensor) -> torch.Tensor:
        return (output_of(kind, network, rows) - target[rows]).square().flatten(1).mean(1)

    return losses
