"""Stable Diffusion 3 and 3.5: a joint transformer of picture and text, learned by flow matching.

Guarantee: rows are independent (the dry run checks it). May import torch and diffusers, never the engine.
Source: Esser et al. (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel

from dp_diffusers.diffusion.base import config_of
from dp_diffusers.diffusion.flow import shift_of_size
from dp_diffusers.diffusion.text import TextFamily


class StableDiffusion3Family(TextFamily):
    """`StableDiffusion3Pipeline`, with or without its T5 encoder."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    shifts_latents: ClassVar[bool] = True
    network_kind: ClassVar[type[torch.nn.Module]] = SD3Transformer2DModel

    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """`text`: states of all encoders, `[1, tokens, width]`; `pooled`: of the CLIP ones, `[1, width]`."""
        text, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, device=device, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def sampler_options(self, steps: int) -> Mapping[str, Any]:
        """The shift of the noise levels, where the schedule has one for each size."""
        del steps
        patches = (self.shape[1] // int(config_of(self.network).patch_size)) ** 2
        return shift_of_size(self.base.scheduler, patches, most=1.16)

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The transformer's output, `[R, c, h, w]`."""
        found = self.conditions(labels, noisy)
        return self.network(  # type: ignore[no-any-return]
            self.like_network(noisy),
            timestep=times,
            encoder_hidden_states=found["text"],
            pooled_projections=found["pooled"],
        ).sample
