"""The pairs that the accountant composes are the worst ones: against quadrature, over all units that may be.

The theorem is docs/design/0008; these tests look for a counterexample to it, and to its use.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import hockey_stick as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.budget import ADJACENCIES
from dp_diffusers.privacy.events import GaussianMechanism, HistogramQuery
from dp_diffusers.privacy.theorems import theorem_of

ROUNDING = 3e-8  # of the quadrature


def step(q: float, sigma: float, *, slots: int = 10**6, most: int | None = None) -> GaussianMechanism:
    return GaussianMechanism(
        steps=1,
        population=slots,
        expected_units=1,
        sampling_probability=q,
        max_units=most,
        clip_norm=1.0,
        noise_multiplier=sigma,
    )


def accounted(record: GaussianMechanism, adjacency: str) -> Callable[[float], float]:
    """Delta of one step at an epsilon, as the accountant has it."""
    loss = accountant.one_step_loss(record, adjacency, 2e-3)
    return lambda epsilon: float(loss.get_delta_for_epsilon(epsilon))


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    "record",
    [step(0.1, 1.0), step(0.1, 1.0, most=7, slots=50), HistogramQuery(classes=10, noise_multiplier=3.0)],
    ids=lambda record: record.sampling,
)
def test_every_combination_names_its_theorem(record, adjacency) -> None:
    text = theorem_of(record, adjacency)
    assert len(text) < 330
    assert "\n" not in text
    with pytest.raises(ParameterError, match="unknown adjacency"):
        theorem_of(record, adjacency.upper())


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace"])
@pytest.mark.parametrize(("q", "sigma"), [(0.01, 0.7), (0.1, 1.0), (0.5, 2.0), (1.0, 1.5)])
def test_one_step_is_the_integral(adjacency: str, q: float, sigma: float) -> None:
    found_at = accounted(step(q, sigma), adjacency)
    for epsilon in (0.1, 0.5, 1.5):
        exact, found = oracle.worst_delta(adjacency, q, sigma, epsilon), found_at(epsilon)
        assert exact - ROUNDING <= found <= 1.01 * exact + ROUNDING


@pytest.mark.parametrize("adjacency", ["zero_out", "replace"])
@pytest.mark.parametrize(("slots", "q", "most"), [(50, 0.1, 5), (50, 0.1, 9), (20, 1.0, 10), (200, 0.05, 25)])
def test_one_truncated_step_is_the_integral(adjacency: str, slots: int, q: float, most: int) -> None:
    found_at = accounted(step(q, 1.2, slots=slots, most=most), adjacency)
    for epsilon in (0.3, 1.0):
        exact = oracle.worst_truncated_delta(adjacency, q, 1.2, epsilon, slots, most)
        found = found_at(epsilon)
        assert exact - ROUNDING <= found <= 1.01 * exact + ROUNDING


def exceeds(q: float, sigma: float, adjacency: str) -> float:
    """By how much any two units in [-1, 1], or one and none, pass what is accounted for; > 0 is a breach."""
    units = np.linspace(-1, 1, 7)
    others = units if adjacency == "replace" else [0.0]
    worst, bound_at = -math.inf, accounted(step(q, sigma), adjacency)
    for epsilon in (-0.3, 0.2, 1.0, 3.0):
        bound = bound_at(epsilon)
        for one, other in itertools.product(units, others):
            first, second = [(1 - q, 0.0), (q, one)], [(1 - q, 0.0), (q, other)]
            found = max(
                oracle.delta(first, second, sigma, epsilon), oracle.delta(second, first, sigma, epsilon)
            )
            worst = max(worst, found - bound)
    return worst


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
@pytest.mark.parametrize(("q", "sigma"), [(0.05, 0.8), (0.6, 1.5)])
def test_guarantee_no_units_in_one_dimension_pass_the_pair(
    adjacency: str, q: float, sigma: float, monkeypatch
):
    monkeypatch.setattr(oracle.points, "__defaults__", (6.0, 8001))
    assert exceeds(q, sigma, adjacency) <= 1e-6  # of the quadrature


@pytest.mark.planted
def test_planted_replacement_accounted_as_presence(monkeypatch) -> None:
    """The pair of add_remove under replace is exceeded by two opposite units, and by far."""
    monkeypatch.setattr(oracle.points, "__defaults__", (6.0, 8001))
    honest = accountant.relation
    monkeypatch.setattr(accountant, "relation", lambda adjacency: honest("add_remove"))
    assert exceeds(0.6, 1.5, "replace") > 0.05


def in_the_plane(u: np.ndarray, v: np.ndarray, q: float, sigma: float, epsilon: float) -> float:
    """Delta between (1-q) N(0) + q N(u) and (1-q) N(0) + q N(v), by a sum over the plane."""
    axis = np.linspace(-1 - 7 * sigma, 1 + 7 * sigma, 241)
    x, y = np.meshgrid(axis, axis)
    area = (axis[1] - axis[0]) ** 2

    def normal(mean: np.ndarray) -> np.ndarray:
        squared = (x - mean[0]) ** 2 + (y - mean[1]) ** 2
        return np.exp(-squared / (2 * sigma**2)) / (2 * math.pi * sigma**2)

    without = (1 - q) * normal(np.zeros(2))
    excess = without + q * normal(u) - math.exp(epsilon) * (without + q * normal(v))
    return float(np.maximum(excess, 0.0).sum() * area)


vectors = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 2 * math.pi)).map(
    lambda polar: polar[0] * np.array([math.cos(polar[1]), math.sin(polar[1])])
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(u=vectors, v=vectors, q=st.floats(0.02, 1.0), sigma=st.floats(0.7, 3.0), epsilon=st.floats(-0.5, 2.5))
def test_guarantee_no_units_in_the_plane_pass_the_pair(u, v, q, sigma, epsilon) -> None:
    bound = oracle.worst_delta("replace", q, sigma, epsilon)
    assert in_the_plane(u, v, q, sigma, epsilon) <= bound * 1.001 + 1e-4 * bound + 1e-9


def truncated_ratio(adjacency: str, record: GaussianMechanism, seed: int) -> float:
    """Exact delta of one truncated step over the accounted one, the largest for random and extreme units."""
    rng = np.random.default_rng(seed)
    slots, most, q = record.population, record.max_units, record.sampling_probability
    other = -1.0 if adjacency == "replace" else 0.0
    bound_at = accounted(record, adjacency)
    bounds = {epsilon: bound_at(epsilon) for epsilon in (-0.2, 0.5, 2.0)}
    worst = 0.0
    for others in ([-1.0] * (slots - 1), list(rng.uniform(-1, 1, slots - 1)), [1.0] * (slots - 1)):
        first = oracle.truncated_step([1.0, *others], q, most)
        second = oracle.truncated_step([other, *others], q, most)
        for (epsilon, bound), pair in itertools.product(bounds.items(), ((first, second), (second, first))):
            found = oracle.delta(*pair, record.noise_multiplier, epsilon, reach=slots)
            worst = max(worst, found / bound)
    return worst


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace"])
@pytest.mark.parametrize(("q", "most"), [(0.4, 2), (0.2, 1), (1.0, 3)])
def test_guarantee_truncation_is_within_what_is_accounted(adjacency, q, most, monkeypatch) -> None:
    """All coins and subsets of five slots; under add_remove a unit that is missing leaves its slot empty."""
    monkeypatch.setattr(oracle.points, "__defaults__", (6.0, 2001))
    assert truncated_ratio(adjacency, step(q, 1.0, slots=5, most=most), seed=1) <= 1.0


@pytest.mark.planted
@pytest.mark.parametrize("adjacency", ["zero_out", "replace"])
def test_planted_truncation_accounted_as_plain_poisson(adjacency, monkeypatch) -> None:
    """A unit that displaces another moves the sum by 2, which the plain pair does not know."""
    monkeypatch.setattr(oracle.points, "__defaults__", (6.0, 2001))
    honest = accountant.one_step_loss
    plain = lambda record, *rest: honest(dataclasses.replace(record, max_units=None), *rest)  # noqa: E731
    monkeypatch.setattr(accountant, "one_step_loss", plain)
    assert truncated_ratio(adjacency, step(0.2, 1.0, slots=5, most=1), seed=1) > 2.0
