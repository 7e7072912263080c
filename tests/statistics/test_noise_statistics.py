"""Noise and streams, tested with their power shown: the right value is accepted, one 10 % off is rejected.

Keys are fixed, so these tests are deterministic; sample sizes put a false alarm below 1e-6 for a fresh key.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dp_diffusers.engine.noise import noise_std
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from engine_support import Receipt

CLIP, SIGMA, SIZE = 0.5, 1.3, 40_000
ALARM = 1e-6


def released_noise(seed: int, steps: int = 1, lane: bytes | None = None) -> np.ndarray:
    """What an empty step releases: noise and nothing else."""
    module = nn.Linear(SIZE, 1, bias=False)
    keys = RunKeys.for_tests(seed, lane)
    box = PrivateGradient(
        module, clip_norm=CLIP, noise_multiplier=SIGMA, expected_units=1, keys=keys, plan_fingerprint="plan"
    )
    found = [
        box.release(step, Receipt(step, keys.lane))[0].flatten().double().numpy() for step in range(steps)
    ]
    return np.concatenate(found)


def ks(values: np.ndarray, std: float) -> float:
    return float(stats.kstest(values, "norm", args=(0.0, std)).pvalue)


def test_guarantee_noise_has_the_accounted_size() -> None:
    values, std = released_noise(0), noise_std(CLIP, SIGMA)
    assert ks(values, std) > ALARM
    assert ks(values, 0.9 * std) < ALARM
    assert ks(values, 1.1 * std) < ALARM
    assert abs(values.std() / std - 1) < 5 / np.sqrt(2 * SIZE)
    assert abs(values.mean()) < 5 * std / np.sqrt(SIZE)


def test_noise_has_no_correlation_between_coordinates_steps_or_lanes() -> None:
    twice = released_noise(1, steps=2)
    first, second = twice[:SIZE], twice[SIZE:]
    other = released_noise(1, lane=bytes(16))
    limit = 5 / np.sqrt(SIZE)
    for left, right in ((first, second), (first, other), (first[:-1], first[1:]), (first**2, second**2)):
        assert abs(np.corrcoef(left, right)[0, 1]) < limit
    assert np.corrcoef(first, released_noise(1)[:SIZE])[0, 1] == pytest.approx(1.0)


def test_noise_has_no_correlation_over_the_borders_of_tensors() -> None:
    """1,500 tensors of three values each: odd, so that borders cut the pairs that are drawn together."""
    keys = RunKeys.for_tests(8)
    box = PrivateGradient(
        [nn.Parameter(torch.zeros(3)) for _ in range(1_500)],
        clip_norm=CLIP,
        noise_multiplier=SIGMA,
        expected_units=1,
        keys=keys,
        plan_fingerprint="plan",
    )
    values = torch.stack(box.release(0, Receipt(0, keys.lane))).double().numpy()
    assert ks(values.ravel(), noise_std(CLIP, SIGMA)) > ALARM
    last, first = values[:-1, 2], values[1:, 0]
    for left, right in ((last, first), (last**2, first**2), (values[:-1, 0], first)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(len(left))
    assert len(np.unique(values)) > 0.99 * values.size


def test_tails_of_the_noise() -> None:
    values = RunKeys.for_tests(2).noise(0, "x", 1_000_000)
    for threshold in (2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(threshold) * values.size
        assert abs((abs(values) > threshold).sum() - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("unit_axis", [0, 1])
def test_normal_streams_are_normal_and_independent(unit_axis: int) -> None:
    values = RunKeys.for_tests(3).normal("diffusion noise", 0, np.arange(200), 200).astype(np.float64)
    assert ks(values.ravel(), 1.0) > ALARM
    assert ks(values.ravel(), 1.1) < ALARM
    rows = values if unit_axis == 0 else values.T
    correlations = np.corrcoef(rows)[np.triu_indices(200, 1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(200)
    assert abs(correlations.mean()) < 5 / np.sqrt(200 * correlations.size)


def test_uniform_streams_are_uniform() -> None:
    keys = RunKeys.for_tests(4)
    for values in (
        keys.uniform("timesteps", 0, np.arange(5000), 8).ravel(),
        keys.coarse_bits("s", 0, 160_000).view(np.uint64) * 2.0**-64,
        keys.fine_bits("s", 0, np.arange(20_000)) * 2.0**-64,
    ):
        assert stats.kstest(values, "uniform").pvalue > ALARM
        assert stats.kstest(values**1.1, "uniform").pvalue < ALARM
    assert torch.from_numpy(values).dtype == torch.float64
