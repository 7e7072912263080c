"""Sana: a linear transformer on deeply compressed latents, with the text of a Gemma encoder.

Guarantee: rows are independent (the dry run checks it). May import torch and diffusers, never the engine.
Source: Xie et al. (2024). Prompts are taken as they are, without the pipeline's standard instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import SanaTransformer2DModel
from torch import nn

from dp_diffusers.diffusion.base import config_of
from dp_diffusers.diffusion.text import TextFamily

STEP = 32  # pixels


class SanaFamily(TextFamily):
    """`SanaPipeline`."""

    drawn_by_pipeline: ClassVar[tuple[str, ...] | None] = (
        "guidance_scale=1.0,",
        "use_resolution_binning=False,",
        "clean_caption=False,",
        "complex_human_instruction=None,",
    )
    pipelines: ClassVar[tuple[str, ...]] = ("SanaPipeline",)
    network_kind: ClassVar[type[nn.Module]] = SanaTransformer2DModel

    @property
    def granularity(self) -> int:
        """The pipeline draws sides of multiples of it, whatever the autoencoder."""
        return STEP

    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """`text`: states of Gemma, `[1, tokens, width]`; `mask`: which tokens there are, `[1, tokens]`."""
        text, mask, _, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, device=device)
        return {"text": text, "mask": mask}

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The transformer's output, `[R, c, h, w]`."""
        found = self.conditions(labels, noisy)
        return self.network(  # type: ignore[no-any-return]
            self.like_network(noisy),
            encoder_hidden_states=found["text"],
            encoder_attention_mask=found["mask"],
            timestep=times * config_of(self.network).timestep_scale,
        ).sample[:, : noisy.shape[1]]
