"""DiT: a transformer on latents that is told one of n classes, or that there is none.

Guarantee: rows are independent (the dry run checks it), and no label is dropped but by the run's secret
stream: the dropout of diffusers' own label embedding is off. May import torch and diffusers, never the
engine. Source: Peebles & Xie (2023).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding

from dp_diffusers.diffusion.autoencoded import AutoencodedFamily
from dp_diffusers.diffusion.base import Base, config_of


class DiTFamily(AutoencodedFamily):
    """`DiTPipeline`: classes 0 to n - 1, and n for none."""

    pipelines: ClassVar[tuple[str, ...]] = ("DiTPipeline",)
    network_kind: ClassVar[type[torch.nn.Module]] = DiTTransformer2DModel

    def __init__(self, base: Base, **options: Any) -> None:
        super().__init__(base, **options)
        for layer in self.network.modules():
            if isinstance(layer, LabelEmbedding):
                layer.dropout_prob = 0.0

    @property
    def null_label(self) -> int:
        """The embedding after those of the classes, however many of them have names."""
        return int(config_of(self.network).num_embeds_ada_norm)

    def takes_size(self, size: int) -> bool:
        """The pipeline draws images of the model's own size only."""
        return size == self.native_size

    def size_hint(self) -> str:
        """What to do about a size that does not fit."""
        return f"leave data.size out: the model makes images of {self.native_size} pixels"

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The transformer's output, `[R, c, h, w]`; of a learned variance nothing is kept."""
        if labels is None:
            labels = torch.full((len(noisy),), self.null_label, device=noisy.device)
        output = self.network(self.like_network(noisy), timestep=times, class_labels=labels).sample
        return output[:, : noisy.shape[1]]  # type: ignore[no-any-return]
