"""The noise of a release: drawn and added in float64, rounded to a fixed grid, cast last.

Guarantees: the standard deviation is a little above the accounted one, and the grid depends on public numbers
only. May import numpy, torch and the engine's randomness. Sources: Mironov, *On Significance of the Least
Significant Bits for Differential Privacy* (2012); Holohan & Braghin (2021, arXiv 2107.10138).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dp_diffusers.engine.randomness import Floats, RunKeys

SAFETY = 1e-4  # relative surplus of noise that covers the rounding of norms and sums
_GRID_BITS = 20
PARAMETERS = "parameters"  # the stream of the gradient's noise, no other release's


def noise_std(clip_norm: float, noise_multiplier: float) -> float:
    """Standard deviation of the noise on each coordinate of the clipped sum."""
    return noise_multiplier * (1.0 + SAFETY) * clip_norm


def grid(std: float) -> float:
    """Step of the output grid: a power of two, 2^20 to 2^21 times finer than the noise."""
    return float(2.0 ** (math.floor(math.log2(std)) - _GRID_BITS))


def noisy(total: Tensor, keys: RunKeys, step: int, std: float) -> Tensor:
    """`total` (float64, any shape) plus noise, on the grid, as float32.

    One stream serves all of a step's gradient, and a place in `total` has its own number there.
    """
    draws = torch.from_numpy(keys.noise(step, PARAMETERS, total.numel()))
    step_size = grid(std)
    released = draws.to(total.device).view(total.shape).mul_(std).add_(total)  # in place: they are as large
    return released.div_(step_size).round_().mul_(step_size).to(torch.float32)


def noisy_values(values: Floats, keys: RunKeys, step: int, name: str, std: float) -> Floats:
    """`values [D]` plus noise, on the grid; `name` is the stream of their noise, no other release's."""
    step_size = grid(std)
    released: Floats = np.round((values + keys.noise(step, name, len(values)) * std) / step_size) * step_size
    return released


def noisy_number(value: float, keys: RunKeys, step: int, name: str, std: float) -> float:
    """One value, as `noisy_values`."""
    return float(noisy_values(np.array([value]), keys, step, name, std)[0])
