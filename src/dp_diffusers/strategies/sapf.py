"""Low-rank adapters on the layers that matter most for the private images (DP-SAPF, 2026).

Guarantees those of `Lora`, and that the choice of layers is a pure function of the numbers that it is given;
they come from one charged query (squared gradients with noise), which is made elsewhere. May import torch and
peft.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig
from torch import nn

from dp_diffusers.errors import ParameterError, positive, within
from dp_diffusers.strategies import targets as target_names
from dp_diffusers.strategies.lora import Lora


@dataclass(frozen=True, kw_only=True)
class Sapf:
    """`Lora` on a `fraction` of the layers of `targets`, those that a charged query finds most salient.

    Args:
        rank, alpha, targets, also: as in `Lora`.
        fraction: in (0, 1], the part of the candidate layers that get an adapter; at least one does.
    """

    rank: int = 8
    alpha: float | None = None
    fraction: float = 0.3
    targets: str | Sequence[str] = "attention"
    also: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require_fraction(self.fraction)
        self._lora(self.targets)

    def candidates(self, network: nn.Module) -> list[str]:
        """Names of the layers to choose from, in the order of the network; call it before `apply`."""
        return target_names.layers(network, self.targets)

    def apply(self, network: nn.Module, *, seed: int = 0, chosen: Sequence[str] = ()) -> LoraConfig:
        """As `Lora.apply`, with adapters on the layers `chosen`, some of `candidates`.

        Raises `ParameterError` for none, or for one that is no candidate.
        """
        if not chosen:
            raise ParameterError(
                "strategy sapf needs the layers that its charged query chose, got none",
                hint="choose them first, or use strategy lora, which adapts all of them",
            )
        unknown = sorted(set(chosen) - set(self.candidates(network)))
        if unknown:
            raise ParameterError(f"strategy sapf cannot adapt {unknown[0]!r}: it is no candidate")
        return self._lora(list(chosen)).apply(network, seed=seed)

    def _lora(self, targets: str | Sequence[str]) -> Lora:
        return Lora(rank=self.rank, alpha=self.alpha, targets=targets, also=self.also)


def choose(saliency: Mapping[str, float], fraction: float) -> list[str]:
    """The most salient layers, most salient first, equal ones by name: `fraction` of them, at least one.

    saliency: a number for each layer, with its noise (so it may be negative). Raises `ParameterError` for
    none, for numbers that are not finite, and for a fraction outside (0, 1].
    """
    _require_fraction(fraction)
    if not saliency or not all(map(math.isfinite, saliency.values())):
        raise ParameterError("expected a finite saliency for each of one or more layers")
    ranked = sorted(saliency, key=lambda name: (-saliency[name], name))
    return ranked[: max(1, round(fraction * len(ranked)))]


def _require_fraction(fraction: float) -> None:
    positive(fraction=fraction)
    within(0, 1, fraction=fraction)
