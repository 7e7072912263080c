"""The plan's mechanism with its noise unknown, against the Gaussian mechanism's own formulas."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import get_sigma_gaussian
from scipy.stats import norm

from dp_diffusers.auditing.bounds import Outcome
from dp_diffusers.auditing.family import epsilon_within_family, member, share_to_guess
from dp_diffusers.mechanisms.dpsgd import DPSGD

ONE_STEP = DPSGD(steps=1, expected_units=10, population=10)


def test_a_curve_is_the_gaussian_one_and_never_above_it() -> None:
    curve = member(ONE_STEP.record(1.25), "add_remove").curve
    for y in np.linspace(0.01, 0.99, 25):
        exact = norm.cdf(norm.ppf(y) - 1 / 1.25)
        assert exact - 0.003 <= curve.inverse_blow_up(float(y)) <= exact + 1e-9


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out"])
def test_a_curve_of_many_sampled_steps_allows_no_less_than_its_epsilon(adjacency: str) -> None:
    record = DPSGD(steps=20, expected_units=10, population=100).record(1.0)
    known = member(record, adjacency)
    epsilon = known.epsilon(1e-3)
    # what (epsilon, delta) allows at most for an event of chance x elsewhere
    for x in (0.001, 0.01, 0.1):
        assert known.curve.inverse_blow_up(min(1.0, 1e-3 + np.exp(epsilon) * x)) >= x * (1 - 0.02)


@pytest.mark.parametrize(("correct", "expected"), [(80, 1.402215), (90, None)])
def test_the_bound_is_that_of_the_gaussian_family(correct: int, expected: float | None) -> None:
    """The first number is JAX Privacy's (see test_bounds); members lie 2 % apart: ours is a bit less."""
    seen = Outcome(canaries=1000, guesses=100, correct=correct)
    record = ONE_STEP.record(get_sigma_gaussian(4.0, 1e-5))
    found = epsilon_within_family(record, "add_remove", 1e-5, seen, failure=0.05, claimed=4.0)
    assert 0 < found < 4.0
    if expected is not None:
        assert 0.94 * expected <= found <= expected


@pytest.mark.slow
def test_the_bound_passes_the_claim_only_where_the_claim_is_refuted() -> None:
    sigma = get_sigma_gaussian(1.0, 1e-5)

    def bound(correct: int) -> float:
        seen = Outcome(canaries=2000, guesses=200, correct=correct)
        return epsilon_within_family(
            ONE_STEP.record(sigma), "add_remove", 1e-5, seen, failure=0.04, claimed=1.0
        )

    found = [bound(correct) for correct in (100, 130, 150, 170, 200)]
    assert found == sorted(found)
    assert found[0] == 0.0
    assert found[1] <= 1.0 < found[2]
    assert found[-1] > 4.0, "all right: a quarter of the noise at least"


@pytest.mark.parametrize(
    ("epsilon", "canaries", "share", "enough"),
    [(1.0, 1000, 0.1, True), (4.0, 1000, 0.1, True), (4.0, 400, 0.2, True), (8.0, 4000, 0.3, True)],
)
def test_more_is_guessed_where_few_guesses_could_not_refute(
    epsilon: float, canaries: int, share: float, enough: bool
) -> None:
    record = ONE_STEP.record(get_sigma_gaussian(epsilon, 1e-5))
    assert share_to_guess(record, "add_remove", canaries, failure=0.04) == (share, enough)


def test_too_few_canaries_are_known_beforehand() -> None:
    record = ONE_STEP.record(get_sigma_gaussian(20.0, 1e-5))
    assert not share_to_guess(record, "add_remove", 20, failure=0.04)[1]
