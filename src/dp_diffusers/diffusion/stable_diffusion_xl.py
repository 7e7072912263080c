"""Stable Diffusion XL: two CLIP encoders, and a U-Net that is told size and crop of the picture too.

Guarantee: rows are independent (the dry run checks it). May import torch and diffusers, never the engine.
Source: Podell et al. (2023). Images are never cropped here after they are opened, so the network is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from dp_diffusers.diffusion.stable_diffusion import StableDiffusionFamily


class StableDiffusionXLFamily(StableDiffusionFamily):
    """`StableDiffusionXLPipeline`."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    normalises_latents: ClassVar[bool] = True

    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """`text`: both encoders' states, `[1, tokens, width]`; `pooled`: that of the second, `[1, width]`."""
        text, _, pooled, _ = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
        return {"text": text, "pooled": pooled}

    def encode_null(self, pipeline: Any, device: torch.device) -> Mapping[str, torch.Tensor]:
        """Zeros, where the pipeline takes zeros for an empty prompt."""
        empty = super().encode_null(pipeline, device)
        if not self.base.options.get("force_zeros_for_empty_prompt", True):
            return empty
        return {name: torch.zeros_like(value) for name, value in empty.items()}

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The U-Net's output, `[R, c, h, w]`; it is told that images are whole."""
        found = self.conditions(labels, noisy)
        facts = (self.size, self.size, 0, 0, self.size, self.size)
        time_ids = noisy.new_tensor(facts).expand(len(noisy), -1)
        added = {"text_embeds": found["pooled"], "time_ids": self.like_network(time_ids)}
        return self.network(  # type: ignore[no-any-return]
            self.like_network(noisy), times, encoder_hidden_states=found["text"], added_cond_kwargs=added
        ).sample
