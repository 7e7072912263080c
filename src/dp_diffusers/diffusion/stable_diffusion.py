"""Stable Diffusion 1.x and 2.x: a U-Net with cross-attention to the text of a CLIP encoder.

Guarantee: rows are independent (the dry run checks it). May import torch and diffusers, never the engine.
Source: Rombach et al. (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel

from dp_diffusers.diffusion.base import Base, config_of
from dp_diffusers.diffusion.text import TextFamily
from dp_diffusers.errors import ModelError


class StableDiffusionFamily(TextFamily):
    """`StableDiffusionPipeline`, of noise or velocity prediction."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    network_kind: ClassVar[type[torch.nn.Module]] = UNet2DConditionModel

    def __init__(self, base: Base, **options: Any) -> None:
        width = config_of(base.network).get("time_cond_proj_dim")
        if width is not None:
            raise ModelError(
                f"the {base.component} is of a consistency model: it is told guidance (time_cond_proj_dim "
                f"{width}), and would be trained without",
                hint="the diffusion model that it was distilled from",
            )
        super().__init__(base, **options)

    @property
    def granularity(self) -> int:
        """A side of the latents is halved once less than the U-Net has widths."""
        return int(self.latents.factor * 2 ** (len(config_of(self.network).block_out_channels) - 1))

    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """`text`: the encoder's last states, `[1, tokens, width]`."""
        text, _ = pipeline.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)
        return {"text": text}

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The U-Net's output, `[R, c, h, w]`."""
        text = self.conditions(labels, noisy)["text"]
        return self.network(self.like_network(noisy), times, encoder_hidden_states=text).sample  # type: ignore[no-any-return]
