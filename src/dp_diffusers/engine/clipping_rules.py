"""The clipping rules: from the norms of each owner's gradient, group by group, to the factors that scale it.

Guarantees: `sum over groups of (factor * norm)^2 <= clip_norm^2` for every owner and all finite norms, so
that a rule's total sensitivity is the clip norm whatever its groups. May import torch. Sources: Abadi et al.
2016 (arXiv 1607.00133) for flat, Bu et al. 2023 (arXiv 2206.07136) for automatic, McMahan et al. 2018 (arXiv
1710.06963) for per layer, Andrew et al. 2021 (arXiv 1905.03871) for adaptive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dp_diffusers.errors import unknown_name

Factors = Callable[[Tensor, float], Tensor]  # (norms [U, G] float64, clip_norm) -> factors [U, G] float64

AUTOMATIC_STABILITY: Final = 0.01  # gamma of automatic clipping, in clip norms
_RULES: dict[str, ClippingRule] = {}


@dataclass(frozen=True, kw_only=True)
class ClippingRule:
    """A rule: its factors, and whether each layer is a group of its own (else all parameters are one)."""

    factors: Factors
    per_layer: bool = False


def clipping_rule(name: str, *, per_layer: bool = False) -> Callable[[Factors], Factors]:
    """Registers a rule whose factors keep every owner's norm over all groups within the clip norm."""

    def register(function: Factors) -> Factors:
        _RULES[name] = ClippingRule(factors=function, per_layer=per_layer)
        return function

    return register


def clipping_rules() -> dict[str, ClippingRule]:
    """All registered rules by name."""
    return dict(_RULES)


def rule_named(name: str) -> ClippingRule:
    """The rule registered as `name`. Raises `ParameterError` with the nearest known name."""
    if name not in _RULES:
        raise unknown_name("clipping rule", name, _RULES)
    return _RULES[name]


@clipping_rule("adaptive")  # with a clip norm that follows a quantile: see `quantile`
@clipping_rule("flat")
def flat(norms: Tensor, clip_norm: float) -> Tensor:
    """`min(1, C / norm)`.

    | norm | factor |
    |------|--------|
    | 0    | 1      |
    | <= C | 1      |
    | > C  | C/norm |
    """
    return (clip_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)


@clipping_rule("automatic")
def automatic(norms: Tensor, clip_norm: float) -> Tensor:
    """`C / (norm + gamma)` with gamma = C / 100: every gradient is brought near the length C, below it.

    | norm  | factor * norm |
    |-------|---------------|
    | 0     | 0             |
    | C/100 | C/2           |
    | -> oo | -> C          |
    """
    return clip_norm / (norms + AUTOMATIC_STABILITY * clip_norm)


@clipping_rule("per_layer", per_layer=True)
def per_layer(norms: Tensor, clip_norm: float) -> Tensor:
    """Each of the G groups is clipped flat to C / sqrt(G), so that all together have at most the norm C."""
    return flat(norms, clip_norm / math.sqrt(max(1, norms.shape[1])))
