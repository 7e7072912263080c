"""The statistical tests can tell: how often each would be wrong, computed; reused and correlated noise.

A test of a rate or a size compares a sum with its mean in units of its standard deviation. It accepts within
4.9 deviations (two-sided, 1e-6). What is 10 % off lies `distance` deviations away, and is missed with the
probability of a deviation of distance - 4.9 in the other direction.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import test_noise_statistics as noise_tests
import test_sampling_statistics as sampling_tests
import torch
from scipy import stats

from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from engine_support import Receipt

ACCEPTED = float(stats.norm.isf(0.5e-6))  # 4.9
SIZE = 20_000
# 15 pairs of arrays, 6 lags of each of 6, 6 times squares: under 100 comparisons at 5.5 deviations each
LIMIT = 5.5 / np.sqrt(SIZE)

Noise = dict[tuple[int, int, int], np.ndarray]  # by lane, step, parameter


def missed(distance: float) -> float:
    """Probability of accepting what lies `distance` standard deviations away."""
    return float(stats.norm.sf(distance - ACCEPTED))


def test_a_rate_ten_per_cent_off_is_hardly_ever_missed() -> None:
    trials, rate = sampling_tests.UNITS * sampling_tests.STEPS, sampling_tests.RATE
    for wrong in (0.9 * rate, 1.1 * rate):
        assert missed(abs(wrong - rate) * np.sqrt(trials / (wrong * (1 - wrong)))) < 1e-20


def test_noise_ten_per_cent_off_is_hardly_ever_missed() -> None:
    """By the Kolmogorov distance: two normals 10 % apart differ most at one point, a binomial test there."""
    for wrong in (0.9, 1.1):
        points = np.linspace(0.1, 3, 300)
        apart = np.abs(stats.norm.cdf(points) - stats.norm.cdf(points / wrong))
        place = points[apart.argmax()]
        critical = np.sqrt(np.log(2 / noise_tests.ALARM) / (2 * noise_tests.SIZE))
        chance = stats.norm.cdf(place / wrong)
        deviation = np.sqrt(chance * (1 - chance) / noise_tests.SIZE)
        assert stats.norm.sf((apart.max() - critical) / deviation) < 1e-6


def test_false_alarms_are_rare() -> None:
    assert 2 * stats.norm.sf(ACCEPTED) == pytest.approx(1e-6)
    assert 100 * 2 * stats.norm.sf(5.5) < 1e-5
    # the bound of Dvoretzky, Kiefer and Wolfowitz: a KS p-value below 1e-6 has at most this chance
    assert 2 * np.exp(-np.log(2 / noise_tests.ALARM)) == pytest.approx(noise_tests.ALARM)


def drawn() -> Noise:
    """Released noise of two lanes, two steps and two parameters, by a box that nobody gave a row."""
    found: Noise = {}
    for lane in range(2):
        keys = RunKeys.for_tests(0, lane=bytes([lane] * 16))
        box = PrivateGradient(
            [torch.nn.Parameter(torch.zeros(SIZE)) for _ in range(2)],
            clip_norm=1.0,
            noise_multiplier=1.0,
            expected_units=1,
            keys=keys,
            plan_fingerprint="plan",
        )
        for step in range(2):
            for index, values in enumerate(box.release(step, Receipt(step, keys.lane))):
                found[lane, step, index] = values.double().numpy()
    return found


def problems(noise: Noise) -> set[str]:
    """Which of the properties of independent noise do not hold."""
    names, found = ("lanes", "steps", "parameters"), set()
    for (one, first), (two, second) in combinations(noise.items(), 2):
        for values, others in ((first, second), (first**2, second**2)):
            if abs(np.corrcoef(values, others)[0, 1]) > LIMIT:
                found.add("/".join(name for name, a, b in zip(names, one, two) if a != b))
    for values in noise.values():
        for lag in (1, 2, 64):
            for shown in (values, values**2):
                if abs(np.corrcoef(shown[lag:], shown[:-lag])[0, 1]) > LIMIT:
                    found.add("coordinates")
        if len(np.unique(values)) < 0.9 * SIZE:
            found.add("coordinates")
    return found


def test_guarantee_noise_is_independent_in_every_direction() -> None:
    assert problems(drawn()) == set()


def reuse(axis: int, weight: float, sign: float = 1.0) -> Callable[[Noise], Noise]:
    """Noise that shares a part with that of another lane, step or parameter; each still has variance one."""

    def plant(noise: Noise) -> Noise:
        shared = {}
        for place, values in noise.items():
            first = tuple(0 if which == axis else at for which, at in enumerate(place))
            mixed = np.sqrt(1 - weight**2) * values + sign * weight * noise[first]  # type: ignore[index]
            shared[place] = values if place == first else mixed
        return shared

    return plant


def along(weight: float) -> Callable[[Noise], Noise]:
    """Noise that each coordinate shares with its neighbour."""
    scale = np.sqrt(1 + weight**2)
    return lambda noise: {at: (value + weight * np.roll(value, 1)) / scale for at, value in noise.items()}


DEFECTS: dict[str, tuple[Callable[[Noise], Noise], str]] = {
    "the noise of a step again": (reuse(1, 1.0), "steps"),
    "the noise of a step again, negated": (reuse(1, 1.0, -1.0), "steps"),
    "a tenth of the noise of a step again": (reuse(1, 0.1), "steps"),
    "one noise for all parameters": (reuse(2, 1.0), "parameters"),
    "one noise for all starts": (reuse(0, 1.0), "lanes"),
    "neighbours share noise": (along(0.1), "coordinates"),
    "half of the noise twice": (
        lambda noise: {at: np.tile(value[: SIZE // 2], 2) for at, value in noise.items()},
        "coordinates",
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize("name", DEFECTS)
def test_planted_noise_that_is_reused_or_correlated(name: str) -> None:
    plant, where = DEFECTS[name]
    assert where in problems(plant(drawn()))


@pytest.mark.planted
def test_planted_one_stream_for_two_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that begins again with each tensor."""
    right = private_gradient.noisy

    def again(total: torch.Tensor, *rest: Any) -> torch.Tensor:
        return torch.cat([right(tensor, *rest) for tensor in total.split(SIZE)])

    monkeypatch.setattr(private_gradient, "noisy", again)
    assert problems(drawn()) == {"parameters"}


RATES: list[Any] = [0.9, 1 / 1.1, 1.1, 1 / 0.9]


@pytest.mark.planted
@pytest.mark.parametrize("factor", RATES)
def test_planted_rates_of_sampling(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampling_tests.PoissonSampler
    monkeypatch.setattr(
        sampling_tests, "PoissonSampler", lambda units, rate, keys: sampler(units, factor * rate, keys)
    )
    with pytest.raises(AssertionError):
        sampling_tests.test_guarantee_inclusion_rate_is_the_accounted_probability()


@pytest.mark.planted
def test_planted_batches_that_are_kept_for_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each unit still joins at the right rate; but what is cut from one batch comes again in the next."""
    sampler = sampling_tests.PoissonSampler

    class Stale(sampler):  # type: ignore[misc, valid-type]
        def units(self, step: int) -> np.ndarray:
            return np.asarray(super().units(step // 2))

    monkeypatch.setattr(sampling_tests, "PoissonSampler", Stale)
    with pytest.raises(AssertionError):
        sampling_tests.test_units_and_steps_are_pairwise_independent()
