"""PixArt-alpha and PixArt-Sigma: a transformer on latents with cross-attention to the text of T5.

Guarantee: rows are independent (the dry run checks it). May import torch and diffusers, never the engine.
Sources: Chen et al. (2023, 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import PixArtTransformer2DModel

from dp_diffusers.diffusion.text import TextFamily

TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # of a prompt, as each pipeline takes them


class PixArtFamily(TextFamily):
    """`PixArtAlphaPipeline` and `PixArtSigmaPipeline`."""

    drawn_by_pipeline: ClassVar[tuple[str, ...] | None] = (
        "guidance_scale=1.0,",
        "use_resolution_binning=False,",
        "clean_caption=False,",
    )
    pipelines: ClassVar[tuple[str, ...]] = tuple(TOKENS)
    network_kind: ClassVar[type[torch.nn.Module]] = PixArtTransformer2DModel

    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """`text`: states of T5, `[1, tokens, width]`; `mask`: which tokens there are, `[1, tokens]`."""
        text, mask, _, _ = pipeline.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            device=device,
            max_sequence_length=TOKENS[self.base.pipeline],
        )
        return {"text": text, "mask": mask}

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The transformer's output, `[R, c, h, w]`; of a learned variance nothing is kept."""
        found = self.conditions(labels, noisy)
        output = self.network(
            self.like_network(noisy),
            encoder_hidden_states=found["text"],
            encoder_attention_mask=found["mask"],
            timestep=times,
            added_cond_kwargs=self._told_of_size(noisy),
        ).sample
        return output[:, : noisy.shape[1]]  # type: ignore[no-any-return]

    def _told_of_size(self, noisy: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Models for 1024 pixels are told height, width and their ratio."""
        if not getattr(self.network, "use_additional_conditions", False):
            return {"resolution": None, "aspect_ratio": None}
        rows = len(noisy)
        return {
            "resolution": self.like_network(noisy.new_full((rows, 2), self.size)),
            "aspect_ratio": self.like_network(noisy.new_ones(rows, 1)),
        }
