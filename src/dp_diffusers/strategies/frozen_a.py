"""Low-rank adapters whose A stays at a random orthonormal start (Sun et al. 2024, FFA-LoRA).

Guarantees those of `Lora`, and that A is public: the experiment's seed decides it, no gradient changes it.
May import torch and peft. The adapter is linear in B, so the noise of one factor never multiplies that of the
other, and half the tensors need no noise at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peft import LoraConfig
from torch import nn

from dp_diffusers.strategies.lora import Lora


@dataclass(frozen=True, kw_only=True)
class FrozenA:
    """`Lora` with `freeze_a`; rank, alpha, targets and also as there."""

    rank: int = 8
    alpha: float | None = None
    targets: str | Sequence[str] = "attention"
    also: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._lora()

    def apply(self, network: nn.Module, *, seed: int = 0) -> LoraConfig:
        """As `Lora.apply`."""
        return self._lora().apply(network, seed=seed)

    def _lora(self) -> Lora:
        return Lora(rank=self.rank, alpha=self.alpha, targets=self.targets, also=self.also, freeze_a=True)
