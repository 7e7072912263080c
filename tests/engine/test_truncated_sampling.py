"""The sampler with a hard limit: slots, and who takes part when one of them is empty."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.engine.coins import smallest, that_come
from dp_diffusers.engine.randomness import RunKeys, Units
from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler
from dp_diffusers.errors import ParameterError

KEYS = RunKeys.for_tests(4)
SLOTS, RATE, MOST = 60, 0.3, 20


def sampler(
    unit_count: int, most: int = MOST, kind: type = TruncatedPoissonSampler
) -> TruncatedPoissonSampler:
    made: TruncatedPoissonSampler = kind(unit_count, RATE, KEYS, slots=SLOTS, max_units=most)
    return made


def steps_with_another_crowd(kind: type) -> int:
    """Steps, of 200, in which the others that take part differ once the last unit is missing."""
    with_it, without = sampler(SLOTS, kind=kind), sampler(SLOTS - 1, kind=kind)
    pairs = ((with_it.units(step), without.units(step)) for step in range(200))
    return sum(not np.array_equal(whole[whole < SLOTS - 1], rest) for whole, rest in pairs)


def test_guarantee_a_blank_unit_changes_nobody_elses_part() -> None:
    """Its slot comes and counts toward the limit whether a unit sits in it or not."""
    assert steps_with_another_crowd(TruncatedPoissonSampler) == 0


class OverPresentUnits(TruncatedPoissonSampler):
    """The defect: the limit is applied to the units that are there."""

    def units(self, step: int) -> Units:
        came, coarse = that_come(self._keys, step, self._slots, self.probability)
        there = came < self._unit_count
        return smallest(self._keys, step, came[there], coarse[there], self.max_units)


@pytest.mark.planted
def test_planted_truncation_over_the_units_that_are_there() -> None:
    """A unit that is missing then lets another one in: two units change, and the theorem allows one."""
    assert steps_with_another_crowd(OverPresentUnits) > 0


def test_guarantee_surplus_units_never_take_part_and_change_nothing() -> None:
    exact, surplus = sampler(SLOTS), sampler(SLOTS + 1000)
    for step in range(50):
        assert np.array_equal(exact.units(step), surplus.units(step))


def test_guarantee_inclusion_is_a_pure_function_of_key_and_step() -> None:
    first, again = sampler(SLOTS), sampler(SLOTS)
    again.units(0)
    units = first.units(7)
    assert units.dtype == np.int64
    assert np.array_equal(units, np.unique(units))
    assert np.array_equal(again.units(7), units)
    assert not np.array_equal(first.units(8), units)


def test_under_the_limit_it_is_plain_poisson() -> None:
    plain, limited = PoissonSampler(SLOTS, RATE, KEYS), sampler(SLOTS, most=SLOTS)
    for step in range(20):
        assert np.array_equal(plain.units(step), limited.units(step))
    assert sampler(0).units(0).size == 0


@pytest.mark.parametrize("most", [0, -1, SLOTS + 1])
def test_bad_limit(most: int) -> None:
    with pytest.raises(ParameterError, match=r"expected max_units in \[1, 60\], got"):
        sampler(SLOTS, most)


def test_bad_rate_and_count() -> None:
    with pytest.raises(ParameterError, match="sampling probability"):
        TruncatedPoissonSampler(10, 1.5, KEYS, slots=10, max_units=5)
    with pytest.raises(ParameterError, match="unit_count"):
        sampler(-1)


def test_the_number_of_units_is_not_shown() -> None:
    assert repr(sampler(12345)) == "TruncatedPoissonSampler(probability=0.3, max_units=20)"
