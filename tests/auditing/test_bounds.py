"""The bounds against another library's numbers, a linear programme, and mechanisms whose epsilon is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian, get_sigma_gaussian
from scipy.optimize import linprog
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from dp_diffusers.auditing import bounds
from dp_diffusers.auditing.bounds import Outcome, epsilon_of_any_mechanism, p_value, refutes
from dp_diffusers.errors import ParameterError

# canaries, guesses, correct, delta: p value at epsilon 1, epsilon of any mechanism, of a Gaussian one, by
# _one_run_p_value, _epsilon_one_run and _epsilon_one_run_fdp (significance 0.05) of JAX Privacy 8967688.
JAX_PRIVACY = [
    (1000, 50, 45, 1e-5, 0.0046113137, 1.385413, 1.931183),
    (1000, 100, 80, 1e-5, 0.0730091159, 0.955319, 1.402215),
    (5000, 250, 220, 1e-5, 0.0019720414, 1.654517, 2.248392),
    (100, 10, 10, 1e-3, 0.0893678747, 0.613793, 1.086597),
]


def outcome(canaries: int, guesses: int, correct: int) -> Outcome:
    return Outcome(canaries=canaries, guesses=guesses, correct=correct)


def gaussian(mu: float) -> Callable[[float], float]:
    """Inverse blow-up of the Gaussian mechanism with sensitivity over noise `mu`."""
    return lambda y: float(ndtr(ndtri(y) - mu))


@pytest.mark.parametrize(("m", "r", "v", "delta", "value", "anything", "family"), JAX_PRIVACY)
def test_as_jax_privacy_says(
    m: int, r: int, v: int, delta: float, value: float, anything: float, family: float
) -> None:
    seen = outcome(m, r, v)
    assert p_value(seen, 1.0, delta) == pytest.approx(value, rel=1e-6)
    assert epsilon_of_any_mechanism(seen, delta, 0.05) == pytest.approx(anything, abs=2e-6)
    for epsilon, expected in ((family - 1e-3, True), (family + 1e-3, False)):
        mu = 1 / get_sigma_gaussian(epsilon, delta)
        assert refutes(seen, gaussian(mu), 0.05) is expected


def test_known_answers() -> None:
    # 20 right guesses of 20 against randomised response: p = (e^eps / (1 + e^eps))^20
    exact = -math.log(0.05 ** (-1 / 20) - 1)
    assert epsilon_of_any_mechanism(outcome(20, 20, 20), 0.0, 0.05) == pytest.approx(exact)
    assert p_value(outcome(1, 1, 1), 0.0, 0.0) == pytest.approx(0.5)
    assert epsilon_of_any_mechanism(outcome(1, 1, 1), 0.0, 0.05) == 0.0
    assert epsilon_of_any_mechanism(outcome(1000, 100, 50), 1e-5, 0.05) == 0.0
    assert epsilon_of_any_mechanism(outcome(2000, 2000, 2000), 0.0, 0.05) > 6.4


def test_a_delta_of_one_over_m_is_as_good_as_nothing() -> None:
    assert epsilon_of_any_mechanism(outcome(100, 10, 10), 0.1, 0.05) == 0.0


def test_more_right_guesses_prove_more() -> None:
    found = [epsilon_of_any_mechanism(outcome(1000, 100, right), 1e-5, 0.05) for right in range(50, 101, 5)]
    assert found == sorted(found)
    assert found[0] == 0.0
    assert found[-1] > 3
    strict = [
        epsilon_of_any_mechanism(outcome(1000, 100, 90), 1e-5, failure) for failure in (0.2, 0.05, 0.01)
    ]
    assert strict == sorted(strict, reverse=True)


@pytest.mark.parametrize("wrong", [(10, 5, 6), (10, 11, 5), (10, 0, 0), (10, 5, -1)])
def test_counts_that_cannot_be(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError, match="expected 0 <= correct <= guesses <= canaries"):
        outcome(*wrong)


def largest_tail(curve: tuple[np.ndarray, np.ndarray], seen: Outcome) -> float:
    """The largest chance of so many right guesses that the theorem's inequalities allow.

    By linear programming: unknown are the chances p_0 .. p_r of each number of right guesses.
    """
    m, r, numbers = seen.canaries, seen.guesses, np.arange(seen.guesses + 1)
    rows, limits = [], []
    for i in range(r):
        wrong = np.where(numbers >= i, (r - numbers) / m, 0.0)
        right = np.where(numbers >= i + 1, numbers / m, 0.0)
        for epsilon, delta in zip(*curve):  # both lines of the curve of (epsilon, delta)
            rows += [right / math.exp(epsilon) - wrong, right * math.exp(epsilon) - wrong]
            limits += [delta / math.exp(epsilon), math.exp(epsilon) - 1 + delta]
    tail = -(numbers >= seen.correct).astype(float)
    found = linprog(tail, np.array(rows), limits, np.ones((1, r + 1)), [1.0], bounds=(0, 1))
    return -float(found.fun)


@pytest.mark.parametrize("mu", [0.5, 1.0])
@pytest.mark.parametrize("seen", [(20, 10, 8), (30, 30, 25), (100, 12, 11), (12, 1, 1)])
def test_the_recursion_finds_what_a_linear_programme_finds(mu: float, seen: tuple[int, int, int]) -> None:
    epsilons = np.linspace(0, 6, 30)
    deltas = norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * norm.cdf(-mu / 2 - epsilons / mu)

    def inverse_blow_up(y: float) -> float:
        grown = np.exp(epsilons)
        return float(max(0, np.max((y - deltas) / grown), np.max(1 - deltas - (1 - y) * grown)))

    most = largest_tail((epsilons, deltas), outcome(*seen))
    assert refutes(outcome(*seen), inverse_blow_up, min(1.0, most * 1.001)) == (most * 1.001 <= 1)
    assert not refutes(outcome(*seen), inverse_blow_up, most * 0.999)


def share_above(truth: float, found: list[float]) -> float:
    return float(np.mean([value > truth for value in found]))


def randomised_responses(random: np.random.Generator, epsilon: float, m: int = 400) -> Outcome:
    right = random.random(m) < 1 / (1 + math.exp(-epsilon))
    return outcome(m, m, int(right.sum()))


def gaussian_scores(random: np.random.Generator, mu: float, m: int = 1000, guesses: int = 100) -> Outcome:
    included = random.random(m) < 0.5
    scores = random.normal(size=m) + mu * (included - 0.5)
    chosen = np.argsort(-np.abs(scores))[:guesses]
    return outcome(m, guesses, int(((scores > 0) == included)[chosen].sum()))


def test_guarantee_the_bound_of_randomised_response_is_below_the_truth() -> None:
    random = np.random.default_rng(0)
    found = [epsilon_of_any_mechanism(randomised_responses(random, 2.0), 0.0, 0.05) for _ in range(200)]
    assert share_above(2.0, found) <= 0.1  # of 200 at 5 %, more than 20 come once in 600 times
    assert np.mean(found) > 1.6  # and it is not empty: randomised response is the worst case


def test_guarantee_the_bounds_of_the_gaussian_mechanism_are_below_the_truth() -> None:
    random, mu, delta = np.random.default_rng(1), 1.0, 1e-5
    truth = get_epsilon_gaussian(1 / mu, delta)
    seen = [gaussian_scores(random, mu) for _ in range(100)]
    assert share_above(truth, [epsilon_of_any_mechanism(one, delta, 0.05) for one in seen]) <= 0.05
    assert np.mean([refutes(one, gaussian(mu), 0.05) for one in seen]) <= 0.1
    assert np.mean([refutes(one, gaussian(0.5 * mu), 0.05) for one in seen]) > 0.5, "there is power"


@pytest.mark.planted
def test_planted_confusion_of_rate_and_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that takes e^(eps/2) for the odds of a right guess is above the truth most of the time."""
    random = np.random.default_rng(0)

    def halved(seen: Outcome, epsilon: float, delta: float) -> float:
        return p_value(seen, epsilon / 2, delta)

    monkeypatch.setattr(bounds, "p_value", halved)
    found = [epsilon_of_any_mechanism(randomised_responses(random, 2.0), 0.0, 0.05) for _ in range(50)]
    assert share_above(2.0, found) > 0.5
