"""Oracle: delta at epsilon by quadrature of densities, without any accountant.

Everything is in units of the clip norm: a step without the unit is N(0, s^2), the unit moves it by at most 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Mixture = Sequence[tuple[float, float]]  # (weight, mean) of Gaussians of one width


def points(sigma: float, reach: float = 6.0, count: int = 50_001) -> Floats:
    """A grid that holds all but a negligible part of every mixture with means in [-reach, reach]."""
    edge = reach + 12.0 * sigma
    return np.linspace(-edge, edge, count)


def density(mixture: Mixture, sigma: float, at: Floats) -> Floats:
    """Density of a mixture of Gaussians at each point."""
    weights = np.array([weight for weight, _ in mixture]) / (sigma * math.sqrt(2 * math.pi))
    means = np.array([mean for _, mean in mixture])
    return weights @ np.exp(((at - means[:, None]) / sigma) ** 2 / -2)


def delta(first: Mixture, second: Mixture, sigma: float, epsilon: float, reach: float = 2.0) -> float:
    """Integral of [first - e^epsilon second]_+, by the trapezium rule."""
    at = points(sigma, reach)
    excess = density(first, sigma, at) - math.exp(epsilon) * density(second, sigma, at)
    return float(np.trapezoid(np.maximum(excess, 0.0), at))


def worst_delta(adjacency: str, q: float, sigma: float, epsilon: float, unit: float = 1.0) -> float:
    """Delta of one Poisson-sampled step for the pair that is claimed to be the worst."""
    joined, left = [(1 - q, 0.0), (q, unit)], [(1.0, 0.0)]
    if adjacency == "replace":
        return delta(joined, [(1 - q, 0.0), (q, -unit)], sigma, epsilon, reach=unit)
    return max(delta(joined, left, sigma, epsilon), delta(left, joined, sigma, epsilon))


def worst_truncated_delta(
    adjacency: str, q: float, sigma: float, epsilon: float, slots: int, most: int
) -> float:
    """The same for at most `most` of `slots`: with the chance that the limit is met, a slot is displaced."""
    others = stats.binom(slots - 1, q)
    met = float(others.sf(most - 1))
    if met == 0.0:
        return worst_delta(adjacency, q, sigma, epsilon)
    # The unit comes with chance q and then stays with chance most / (all that came).
    came = np.arange(most, slots)
    stays = float((others.pmf(came) * q * most / (came + 1)).sum()) / met
    joined, left = [(1 - q, 0.0), (q, 1.0)], [(1.0, 0.0)]
    opposite = [(1 - q, 0.0), (q, -1.0)]
    displaced = worst_delta("replace", stays, sigma, epsilon, unit=2.0)
    pairs = [(joined, opposite)] if adjacency == "replace" else [(joined, left), (left, joined)]
    usual = max(delta(first, second, sigma, epsilon) for first, second in pairs)
    return (1 - met) * usual + met * displaced


def epsilon_at(delta_of: Callable[[float], float], target: float) -> float:
    """The least epsilon >= 0 with delta_of(epsilon) <= target, by bisection to 1e-7."""
    low, high = 0.0, 64.0
    if delta_of(low) <= target:
        return 0.0
    while high - low > 1e-7 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > target else (low, middle)
    return high


def truncated_step(contributions: Sequence[float], q: float, most: int) -> Mixture:
    """The exact output (without noise) of one truncated step over these slots, by all coins and subsets."""
    slots = range(len(contributions))
    weights: dict[float, float] = {}
    for came in itertools.chain.from_iterable(
        itertools.combinations(slots, k) for k in range(len(slots) + 1)
    ):
        chance = q ** len(came) * (1 - q) ** (len(slots) - len(came))
        kept = list(itertools.combinations(came, min(most, len(came))))
        for subset in kept:
            total = round(sum(contributions[slot] for slot in subset), 12)
            weights[total] = weights.get(total, 0.0) + chance / len(kept)
    return [(weight, mean) for mean, weight in weights.items()]
