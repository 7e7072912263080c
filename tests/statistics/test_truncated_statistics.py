"""Truncated Poisson sampling: the rate is q and not 1.1 q, the limit holds, and no slot is favoured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dp_diffusers.engine.coins import that_come
from dp_diffusers.engine.randomness import RunKeys, Units
from dp_diffusers.engine.sampling import TruncatedPoissonSampler

SLOTS, STEPS, RATE = 1_000, 600, 0.05
RARE, OFTEN = 85, 50  # five standard deviations above the mean; the mean itself
ALARM = 1e-6


def included(most: int, rate: float = RATE, kind: type = TruncatedPoissonSampler) -> np.ndarray:
    """Inclusion indicators `[STEPS, SLOTS]`."""
    sampler = kind(SLOTS, rate, RunKeys.for_tests(3), slots=SLOTS, max_units=most)
    joined = np.zeros((STEPS, SLOTS), bool)
    for step in range(STEPS):
        joined[step, sampler.units(step)] = True
    return joined


def limited_rate(most: int, rate: float) -> float:
    """E min(K, most) / SLOTS for binomial K, the chance of a slot to take part."""
    counts = np.arange(SLOTS + 1)
    return float((stats.binom.pmf(counts, SLOTS, rate) * np.minimum(counts, most)).sum() / SLOTS)


def test_guarantee_rate_under_a_rare_limit_is_the_accounted_probability() -> None:
    joined = included(RARE)
    total = int(joined.sum())
    assert stats.binomtest(total, joined.size, RATE).pvalue > ALARM
    assert stats.binomtest(total, joined.size, 1.1 * RATE).pvalue < ALARM
    assert stats.binomtest(total, joined.size, RATE / 1.1).pvalue < ALARM


def test_guarantee_the_limit_is_never_passed() -> None:
    sizes = included(OFTEN).sum(1)
    assert sizes.max() == OFTEN
    assert 0.3 < (sizes == OFTEN).mean() < 0.7


def test_the_rate_under_a_limit_that_is_met() -> None:
    """A binomial test is on the safe side: with the limit the total varies less."""
    total, size = int(included(OFTEN).sum()), STEPS * SLOTS
    expected = limited_rate(OFTEN, RATE)
    assert expected < 0.96 * RATE
    assert stats.binomtest(total, size, expected).pvalue > ALARM
    assert stats.binomtest(total, size, RATE).pvalue < ALARM


def slots_are_alike(joined: np.ndarray) -> bool:
    """Counts of each slot spread as chance has it, and the first half has no more than the second."""
    counts, rate = joined.sum(0), joined.mean()
    spread = ((counts - STEPS * rate) ** 2).sum() / (STEPS * rate * (1 - rate))
    halves = stats.binomtest(int(counts[: SLOTS // 2].sum()), int(counts.sum()), 0.5).pvalue
    return ALARM < stats.chi2.cdf(spread, SLOTS) < 1 - ALARM and halves > ALARM


def test_guarantee_a_uniformly_random_subset_stays() -> None:
    assert slots_are_alike(included(OFTEN))
    assert slots_are_alike(included(OFTEN, 0.08))


class FirstOnes(TruncatedPoissonSampler):
    """The defect: of those that came, the first ones stay."""

    def units(self, step: int) -> Units:
        return that_come(self._keys, step, self._slots, self.probability)[0][: self.max_units]


@pytest.mark.planted
def test_planted_first_ones_stay() -> None:
    """The first units would take part at the full rate and never be displaced."""
    assert not slots_are_alike(included(OFTEN, 0.08, FirstOnes))
