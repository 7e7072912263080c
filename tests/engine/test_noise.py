"""The noise of a release: size and grid."""

from __future__ import annotations

import pytest
import torch

from dp_diffusers.engine.noise import grid, noise_std, noisy
from dp_diffusers.engine.randomness import RunKeys

KEYS = RunKeys.for_tests(6)


def test_guarantee_the_noise_is_a_little_more_than_accounted() -> None:
    assert noise_std(0.5, 2.0) == pytest.approx(1.0 * (1 + 1e-4), rel=1e-12)


@pytest.mark.parametrize("std", [1e-9, 0.3, 1.0, 7.0, 1e6])
def test_guarantee_results_lie_on_a_public_power_of_two_grid(std: float) -> None:
    step_size = grid(std)
    assert 2.0**-21 * std <= step_size <= 2.0**-20 * std
    total = torch.randn(50, dtype=torch.float64) * std * 1e-3
    released = noisy(total, KEYS, 0, std).double()
    rounded = (released / step_size).round() * step_size
    assert torch.equal(rounded.float(), released.float())
    small = released.abs() < 2**23 * step_size
    assert torch.equal(rounded[small], released[small])


def test_noise_depends_on_step_and_place_alone() -> None:
    zero = torch.zeros(3, 4, dtype=torch.float64)
    first = noisy(zero, KEYS, 0, 1.0)
    assert first.shape == (3, 4)
    assert first.dtype == torch.float32
    assert torch.equal(first, noisy(zero, KEYS, 0, 1.0))
    assert not (first == noisy(zero, KEYS, 1, 1.0)).any()
    longer = noisy(torch.zeros(20_001, dtype=torch.float64), KEYS, 0, 1.0)
    assert torch.equal(first.flatten(), longer[:12])
    assert len(longer.unique()) > 19_000, "no part of the stream comes twice"
