"""Poisson sampling of units: each unit joins each step on its own, with the same probability.

Guarantees: a unit's draw is a pure function of (key, step, unit), blanking a unit changes no other unit's
part, and the realised batch size is never printed. May import numpy and the engine's coins, never torch.
Sources: Abadi et al. 2016 (arXiv 1607.00133), and arXiv 2508.15089 (2025) for truncation.
"""

from __future__ import annotations

import math

from dp_diffusers.engine.coins import smallest, that_come
from dp_diffusers.engine.randomness import RunKeys, Units
from dp_diffusers.errors import ParameterError


class PoissonSampler:
    """Chooses the units of each step: every one of `unit_count` units with `probability`, independently.

    `unit_count` is private (the plan declares a public population instead) and appears in no repr.
    Raises `ParameterError` for a probability outside (0, 1] or a negative unit count.
    """

    def __init__(self, unit_count: int, probability: float, keys: RunKeys) -> None:
        _check(unit_count, probability)
        self.probability = probability
        self._unit_count = unit_count
        self._keys = keys

    def units(self, step: int) -> Units:
        """Ids of the units included at `step`, int64 in ascending order, possibly none."""
        return that_come(self._keys, step, self._unit_count, self.probability)[0]

    def __repr__(self) -> str:
        return f"PoissonSampler(probability={self.probability})"


class TruncatedPoissonSampler:
    """Poisson sampling over `slots` slots, of which at most `max_units` stay, a uniformly random subset.

    Unit u sits in slot u. Units beyond the last slot never take part; slots without a unit come like the
    others and count toward the limit, so that who takes part does not depend on which slots are filled.
    `unit_count` is private and appears in no repr. Raises `ParameterError` for numbers out of range.
    """

    def __init__(
        self, unit_count: int, probability: float, keys: RunKeys, *, slots: int, max_units: int
    ) -> None:
        _check(unit_count, probability)
        if not 1 <= max_units <= slots:
            raise ParameterError(f"expected max_units in [1, {slots}], got {max_units}")
        self.probability = probability
        self.max_units = max_units
        self._slots = slots
        self._unit_count = unit_count
        self._keys = keys

    def units(self, step: int) -> Units:
        """Ids of the units that take part at `step`, int64 in ascending order, at most `max_units`."""
        came, coarse = that_come(self._keys, step, self._slots, self.probability)
        if len(came) > self.max_units:
            # Given that a slot came, its draw is uniform on what comes: the smallest draws are a uniformly
            # random subset, and a slot's place in the order depends on its own draw alone.
            came = smallest(self._keys, step, came, coarse, self.max_units)
        return came[came < self._unit_count]

    def __repr__(self) -> str:
        return f"TruncatedPoissonSampler(probability={self.probability}, max_units={self.max_units})"


def _check(unit_count: int, probability: float) -> None:
    if not (math.isfinite(probability) and 0.0 < probability <= 1.0):
        raise ParameterError(
            f"expected sampling probability in (0, 1], got {probability}",
            hint="raise population or lower expected_units",
        )
    if unit_count < 0:
        raise ParameterError(f"expected unit_count >= 0, got {unit_count}")
