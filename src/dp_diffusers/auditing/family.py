"""The plan's own mechanism with the noise as its one unknown: which noise do the guesses rule out?

Guarantees: the curve of each member is pessimistic (it allows an attacker more than the mechanism does), so
that what is ruled out is ruled out; the member with the plan's noise is tested as it is. May import numpy and
privacy/, never torch. Source: the trade-off curve as the envelope of all (epsilon, delta) of a mechanism,
Dong, Roth & Su 2019 (arXiv 1905.02383), from its privacy loss distribution.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from dp_diffusers.auditing.bounds import Outcome, refutes
from dp_diffusers.privacy.accountant import SEARCH_GRID, grid_for, one_step_loss

PER_OCTAVE: Final = 32  # members while the noise doubles: 2 % apart
LEAST_NOISE: Final = -2 * PER_OCTAVE  # a quarter of the plan's noise; a worse defect is "at least" that
MOST_NOISE: Final = 6 * PER_OCTAVE
SHARES: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # of canaries that may be guessed
ROOM: Final = PER_OCTAVE // 4  # a defect worth a sixth of the noise is to be seen
_POINTS: Final = 256
_SMALLEST_DELTA: Final = 1e-10
_LARGEST_EPSILON: Final = 600.0  # beyond it exp overflows


@dataclass(frozen=True, eq=False)
class Curve:
    """A mechanism that is (epsilons[i], deltas[i])-DP for every i; float64 `[P]` each."""

    epsilons: np.ndarray
    deltas: np.ndarray

    def inverse_blow_up(self, y: float) -> float:
        """The least x with 1 - f(x) >= y, where f is the trade-off curve: below x no event is that likely.

        (epsilon, delta) allows at most delta + e^eps x, and at most 1 - e^-eps (1 - delta - x).
        """
        grown = np.exp(self.epsilons)
        by_hit = float(np.max((y - self.deltas) / grown))
        by_miss = float(np.max(1.0 - self.deltas - (1.0 - y) * grown))
        return max(0.0, by_hit, by_miss)


@dataclass(frozen=True, eq=False)
class Member:
    """One noise of the family: its curve, and the privacy loss it was read from."""

    curve: Curve
    loss: Any

    def epsilon(self, delta: float) -> float:
        """Epsilon at `delta`."""
        return float(self.loss.get_epsilon_for_delta(delta))


@lru_cache(maxsize=512)
def member(record: Any, adjacency: str) -> Member:
    """The curve of all steps of `record`, a mechanism's record, for neighbours by `adjacency`."""
    one = record.with_steps(1)
    # what little noise leaves of privacy needs no fine grid, and a fine one would take minutes
    coarser = max(1.0, (0.5 / record.noise_multiplier) ** 2)
    grid = grid_for([one], SEARCH_GRID, fraction=0.2) * coarser
    loss = one_step_loss(one, adjacency, grid).self_compose(record.steps)
    largest = min(float(loss.get_epsilon_for_delta(_SMALLEST_DELTA)), _LARGEST_EPSILON)
    epsilons = np.linspace(0.0, max(largest, 1e-6), _POINTS)
    with np.errstate(over="ignore", invalid="ignore"):
        deltas = np.asarray(loss.get_delta_for_epsilon(epsilons))
    known = np.isfinite(deltas)
    return Member(Curve(epsilons[known], np.clip(deltas[known], 0.0, 1.0)), loss)


def with_noise(record: Any, adjacency: str, place: int) -> Member:
    """The member `place` steps of the lattice above the noise of `record`."""
    noise = record.noise_multiplier * 2.0 ** (place / PER_OCTAVE)
    return member(dataclasses.replace(record, noise_multiplier=noise), adjacency)


def share_to_guess(record: Any, adjacency: str, canaries: int, *, failure: float) -> tuple[float, bool]:
    """Which share of the canaries to guess, and whether guesses that are all right could refute the claim.

    Few guesses are the surest ones, but prove little even if all are right: the smallest share is taken with
    which they would refute the claim with room to spare. It depends on public numbers only.
    """

    def enough(share: float, place: int) -> bool:
        guesses = max(1, round(share * canaries))
        best = Outcome(canaries=canaries, guesses=guesses, correct=guesses)
        return refutes(best, with_noise(record, adjacency, place).curve.inverse_blow_up, failure)

    for place in (-ROOM, -1):
        for share in SHARES:
            if enough(share, place):
                return share, True
    return 0.5, False


def epsilon_within_family(
    record: Any, adjacency: str, delta: float, outcome: Outcome, *, failure: float, claimed: float
) -> float:
    """Lower bound on epsilon at `delta`, if the mechanism is `record` with some other noise.

    With probability 1 - `failure` it does not exceed the truth. Above `claimed` (the epsilon of `record`)
    only if `record` itself, and 2 % less noise, is refuted: a verdict that needs no family. At least a
    quarter of the noise is tried. 0 where nothing is proved.
    """

    def refuted(place: int) -> bool:
        return refutes(outcome, with_noise(record, adjacency, place).curve.inverse_blow_up, failure)

    low, high = (0, MOST_NOISE) if not refuted(0) else (LEAST_NOISE - 1, 0)
    if low == 0 and not refuted(high):
        return 0.0
    while high - low > 1:  # `high` is refuted, `low` is not or lies outside
        middle = (low + high) // 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    found = with_noise(record, adjacency, high).epsilon(delta)
    return min(found, claimed) if high >= 0 else found
