"""Runs the box of a mechanism with adaptive clipping, and takes its noise out of what it releases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from engine_support import Receipt

MULTIPLIER = 1.2  # accounted


def mechanism(**changes: Any) -> DPSGD:
    """One in which the noise of the count is a large part of the whole."""
    sizes = {"steps": 5_000, "expected_units": 1_000, "population": 1_000, "clip_norm": 0.5}
    return DPSGD(**{**sizes, "clipping": "adaptive", "quantile_noise": 0.9, **changes})


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Of empty steps: `gradient [T, D]` in clip norms of its step, `count [T]`."""

    gradient: np.ndarray
    count: np.ndarray
    clip_norms: np.ndarray

    @property
    def multipliers(self) -> tuple[float, float]:
        """Noise of the sum, and of the count, over what one unit adds: 1 clip norm, and 1/2."""
        return float(self.gradient.std()), 2 * float(self.count.std())


def noise_of_empty_steps(of: DPSGD, steps: int, width: int = 8) -> Noise:
    """What the box of `of` releases when no unit takes part."""
    module, keys = nn.Linear(width, 1, bias=False), RunKeys.for_tests(4)
    box = of.private_gradient(module, keys, MULTIPLIER, "plan")
    gradients, counts, norms = [], [], [of.clip_norm]
    for step in range(steps):
        (released,) = box.release(step, Receipt(step, keys.lane))
        gradients.append(released.double().flatten().numpy() / norms[-1])
        norms.append(box.state_dict()["clip_norm"])
        share = of.target_quantile - math.log(norms[-1] / norms[-2]) / of.quantile_rate
        counts.append((share - 0.5) * of.expected_units)
    return Noise(gradient=np.array(gradients), count=np.array(counts), clip_norms=np.array(norms))


def a_step(of: DPSGD, lengths: list[float], keys: RunKeys | None = None) -> dict[str, Any]:
    """The state of the box after one step of units whose gradients have these lengths."""
    keys = keys or RunKeys.for_tests(4)
    module = nn.Linear(1, 1, bias=False)
    box = of.private_gradient(module, keys, MULTIPLIER, "plan")
    count = len(lengths)
    inputs = torch.tensor(lengths)[:, None]
    box.accumulate(module(inputs).flatten(), torch.arange(count), torch.ones(count))
    box.release(0, Receipt(0, keys.lane))
    return box.state_dict()
