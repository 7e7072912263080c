"""What a number of right guesses proves about a mechanism, from one run.

Guarantees: each bound holds with the stated probability, whatever the attack and whatever the dependence
between canaries; the number of guesses must be fixed in advance. May import numpy and scipy. Sources:
Theorem 5.2 of Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846) for any (epsilon, delta); Theorem 9 of
Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235) for a trade-off curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from dp_diffusers.errors import ParameterError, within

LARGEST_EPSILON = 100.0  # where the search for a bound ends


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of `canaries`, each in or out by a fair coin, `guesses` were guessed and `correct` of those were right.

    Raises `ParameterError` unless correct <= guesses <= canaries.
    """

    canaries: int
    guesses: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.guesses <= self.canaries or self.guesses < 1:
            raise ParameterError(
                f"expected 0 <= correct <= guesses <= canaries and a guess, got {self.correct}, "
                f"{self.guesses}, {self.canaries}"
            )


def p_value(outcome: Outcome, epsilon: float, delta: float) -> float:
    """At most this probable are so many right guesses against any (epsilon, delta) mechanism.

    Each guess is right at most as often as randomised response is, e^eps / (1 + e^eps), but for delta: that
    adds 2 m delta max_i P[v > W >= v - i] / i, where W is binomial over the r guesses and v of them are
    right.
    """
    within(0.0, 1.0, delta=delta)
    rate = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(outcome.correct - 1, outcome.guesses, rate))
    if not delta:
        return tail
    below = np.arange(1, outcome.correct + 1)
    mass = binom.sf(outcome.correct - below - 1, outcome.guesses, rate) - tail
    excess = float(np.max(mass / below, initial=0.0))
    return min(1.0, tail + 2.0 * outcome.canaries * delta * excess)


def epsilon_of_any_mechanism(outcome: Outcome, delta: float, failure: float) -> float:
    """With probability 1 - `failure` the mechanism is not (epsilon, delta) for any epsilon below this.

    Nothing is assumed about the mechanism. 0 where nothing is proved.
    """
    within(0.0, 1.0, failure=failure)
    low, high = 0.0, LARGEST_EPSILON
    if p_value(outcome, low, delta) > failure:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if p_value(outcome, middle, delta) <= failure:
            low = middle
        else:
            high = middle
    return low


def refutes(outcome: Outcome, inverse_blow_up: Callable[[float], float], failure: float) -> bool:
    """Whether a mechanism with this trade-off curve f gives so many right guesses less often than `failure`.

    `inverse_blow_up(y)`: the least x with 1 - f(x) >= y. Let H_i be the chance that a random canary is
    guessed wrongly while at least i guesses are right, R_i that it is guessed rightly then. Another fall of
    that canary's coin turns the right guess into a wrong one, hence H_i >= inverse_blow_up(R_{i+1}). From a
    tail of mass `failure` at the observed count downwards this forces mass upon mass; a total above one is a
    contradiction.
    """
    canaries, guesses = outcome.canaries, outcome.guesses
    right = failure * outcome.correct / canaries
    wrong = failure * (guesses - outcome.correct) / canaries
    for count in range(outcome.correct - 1, -1, -1):
        forced = max(wrong, inverse_blow_up(right))
        if forced == wrong:  # nothing more is forced, and nothing will be
            break
        right = min(1.0, right + count / (guesses - count) * (forced - wrong))
        wrong = forced
    return right + wrong > guesses / canaries
