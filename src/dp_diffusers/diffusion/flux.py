"""Flux.1: a transformer on packed latents, learned by flow matching, with or without distilled guidance.

Guarantee: rows are independent (the dry run checks it). May import torch and diffusers, never the engine.
Source: Black Forest Labs, Flux.1 (2024), as in diffusers. Where guidance is distilled, the network is told 1
while it learns, and `generation.guidance` when it draws: it replaces guidance by an empty prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from dp_diffusers.diffusion.base import config_of
from dp_diffusers.diffusion.flow import shift_of_size
from dp_diffusers.diffusion.text import TextFamily

BLOCK = 2  # positions of a latent, along each side, that are packed into one patch
NATIVE = 1024  # pixels: what the pipeline draws unless told otherwise; the network's configuration says none


class FluxFamily(TextFamily):
    """`FluxPipeline`."""

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    shifts_latents: ClassVar[bool] = True
    network_kind: ClassVar[type[torch.nn.Module]] = FluxTransformer2DModel

    @property
    def native_size(self) -> int:
        """Height and width of the images that the model was made for."""
        return NATIVE

    @property
    def granularity(self) -> int:
        """An image's side is a multiple of it."""
        return self.latents.factor * BLOCK

    @property
    def latent_channels(self) -> int:
        """Channels of a latent before it is packed."""
        return int(config_of(self.network).in_channels) // BLOCK**2

    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """`text`: states of T5, `[1, tokens, width]`; `pooled`: of CLIP, `[1, width]`."""
        text, pooled, _ = pipeline.encode_prompt(prompt, device=device)
        return {"text": text, "pooled": pooled}

    def sampler_options(self, steps: int) -> Mapping[str, Any]:
        """Evenly spaced levels down to 1 / steps, shifted with the size of the image."""
        patches = (self.shape[1] // BLOCK) ** 2
        shift = shift_of_size(self.base.scheduler, patches, most=1.15)
        return {"sigmas": np.linspace(1.0, 1 / steps, steps).tolist(), **shift}

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The transformer's output, unpacked to `[R, c, h, w]`."""
        return self._predicted(noisy, times, labels, 1.0)

    def guided(
        self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None, guidance: float
    ) -> torch.Tensor:
        """`predict` with the guidance that a distilled network is told, or else with an empty prompt."""
        if not config_of(self.network).guidance_embeds:
            return super().guided(noisy, times, labels, guidance)
        return self._predicted(noisy, times, labels, guidance)

    def _predicted(
        self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None, guidance: float
    ) -> torch.Tensor:
        found = self.conditions(labels, noisy)
        rows, channels, height, width = noisy.shape
        packed = FluxPipeline._pack_latents(noisy, rows, channels, height, width)
        places = FluxPipeline._prepare_latent_image_ids(
            rows, height // BLOCK, width // BLOCK, noisy.device, packed.dtype
        )
        told = noisy.new_full((rows,), guidance) if config_of(self.network).guidance_embeds else None
        output = self.network(
            hidden_states=self.like_network(packed),
            timestep=times / self.base.scheduler.config.num_train_timesteps,
            guidance=told,
            pooled_projections=found["pooled"],
            encoder_hidden_states=found["text"],
            txt_ids=packed.new_zeros(found["text"].shape[1], places.shape[1]),
            img_ids=places,
        ).sample
        return FluxPipeline._unpack_latents(output, height, width, 1)  # type: ignore[no-any-return]
