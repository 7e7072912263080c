"""The sampler's contract."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler
from dp_diffusers.errors import ParameterError

KEYS = RunKeys.for_tests(4)


def test_guarantee_inclusion_is_a_pure_function_of_key_step_and_unit() -> None:
    """More units, other steps in between, another sampler: the same units join the same step."""
    small, large = PoissonSampler(1000, 0.3, KEYS), PoissonSampler(5000, 0.3, KEYS)
    large.units(0)
    first = small.units(7)
    assert first.dtype == np.int64
    assert np.array_equal(first, np.unique(first))
    assert np.array_equal(large.units(7)[large.units(7) < 1000], first)
    assert not np.array_equal(small.units(8), first)


def test_edges() -> None:
    assert PoissonSampler(0, 0.5, KEYS).units(0).size == 0
    assert np.array_equal(PoissonSampler(9, 1.0, KEYS).units(0), np.arange(9))


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.7, float("nan"), float("inf")])
def test_bad_probability(probability: float) -> None:
    with pytest.raises(ParameterError, match=r"expected sampling probability in \(0, 1\], got"):
        PoissonSampler(10, probability, KEYS)
    with pytest.raises(ParameterError, match="unit_count"):
        PoissonSampler(-1, 0.5, KEYS)


def test_the_number_of_units_is_not_shown() -> None:
    assert repr(PoissonSampler(12345, 0.5, KEYS)) == "PoissonSampler(probability=0.5)"
