"""Poisson sampling of units: each unit joins each step independently, with the same probability.

Guarantees: inclusion is a pure function of (key, step, unit) and the realised batch size is never printed.
May import numpy and the engine's randomness, never torch. Source: Abadi et al., *Deep Learning with
Differential Privacy* (2016).
"""

from __future__ import annotations

import math

import numpy as np

from dp_diffusers.engine.randomness import RunKeys, Units
from dp_diffusers.errors import ParameterError


class PoissonSampler:
    """Chooses the units of each step: every one of `unit_count` units with `probability`, independently.

    `unit_count` is private (the plan declares a public population instead) and appears in no repr.
    Raises `ParameterError` for a probability outside (0, 1] or a negative unit count.
    """

    def __init__(self, unit_count: int, probability: float, keys: RunKeys) -> None:
        if not (math.isfinite(probability) and 0.0 < probability <= 1.0):
            raise ParameterError(
                f"expected sampling probability in (0, 1], got {probability}",
                hint="raise population or lower expected_units",
            )
        if unit_count < 0:
            raise ParameterError(f"expected unit_count >= 0, got {unit_count}")
        self.probability = probability
        self._unit_count = unit_count
        self._keys = keys

    def units(self, step: int) -> Units:
        """Ids of the units included at `step`, int64 in ascending order, possibly none."""
        draws = self._keys.uniform_all("sampling", step, self._unit_count)
        return np.flatnonzero(draws < self.probability).astype(np.int64, copy=False)

    def __repr__(self) -> str:
        return f"PoissonSampler(probability={self.probability})"
