"""Poisson sampling: the rate is q and not 1.1 q, and units and steps are independent."""

from __future__ import annotations

import numpy as np
from scipy import stats

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler

UNITS, STEPS, RATE = 2_000, 400, 0.05
ALARM = 1e-6


def included(seed: int = 0) -> np.ndarray:
    """Inclusion indicators `[STEPS, UNITS]`."""
    sampler = PoissonSampler(UNITS, RATE, RunKeys.for_tests(seed))
    joined = np.zeros((STEPS, UNITS), bool)
    for step in range(STEPS):
        joined[step, sampler.units(step)] = True
    return joined


def test_guarantee_inclusion_rate_is_the_accounted_probability() -> None:
    joined = included()
    total = int(joined.sum())
    assert stats.binomtest(total, joined.size, RATE).pvalue > ALARM
    assert stats.binomtest(total, joined.size, 1.1 * RATE).pvalue < ALARM
    assert stats.binomtest(total, joined.size, RATE / 1.1).pvalue < ALARM
    assert stats.binomtest(total, joined.size, 0.9 * RATE).pvalue < ALARM
    assert stats.binomtest(total, joined.size, RATE / 0.9).pvalue < ALARM


def test_each_unit_has_the_same_rate() -> None:
    counts = included().sum(0)
    worst = min(stats.binom.cdf(counts.min(), STEPS, RATE), stats.binom.sf(counts.max() - 1, STEPS, RATE))
    assert worst * 2 * UNITS > ALARM
    spread = ((counts - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1 - RATE))
    assert stats.chi2.cdf(spread, UNITS) > ALARM
    assert stats.chi2.sf(spread, UNITS) > ALARM


def test_batch_sizes_vary_as_poisson_sampling_does() -> None:
    sizes = included().sum(1)
    spread = sizes.var(ddof=1) * (STEPS - 1) / (UNITS * RATE * (1 - RATE))
    assert stats.chi2.cdf(spread, STEPS - 1) > ALARM
    assert stats.chi2.sf(spread, STEPS - 1) > ALARM


def test_units_and_steps_are_pairwise_independent() -> None:
    joined = included().astype(float)
    for indicator in (joined[:, :300], joined.T[:, :300]):
        correlations = np.corrcoef(indicator.T)[np.triu_indices(300, 1)]
        limit = 5.5 / np.sqrt(len(indicator))
        assert np.abs(correlations).max() < 2 * limit
        assert abs(correlations.mean()) < 5 / np.sqrt(len(indicator) * correlations.size)
        assert abs(correlations.std() * np.sqrt(len(indicator)) - 1) < 0.1
