"""The smallest noise for a budget, epsilon along a run, and how many steps a budget carries.

Guarantee: `calibrate_noise` returns a multiplier whose certified epsilon is at most the budget and within
1 % of it, or raises. Imports the accountant and the standard library. Source of the first guess: the
central limit theorem for DP-SGD (Bu et al. 2020, arXiv 1911.11607); the answer itself is certified.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dp_diffusers.errors import BudgetError, DPDiffusersError
from dp_diffusers.privacy.accountant import (
    SEARCH_GRID,
    LossCurve,
    Records,
    cross_check,
    epsilon,
)
from dp_diffusers.privacy.events import GaussianMechanism
from dp_diffusers.rounding import rounded_up_text

SMALLEST_NOISE: Final = 0.3
TIGHTNESS: Final = 0.01  # the certified epsilon lies within 1 % of the budget
AIM: Final = 5e-4  # the search stops this close below its target

RecordAt = Callable[[float], GaussianMechanism]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A noise multiplier and its certified epsilon; `epsilon_rdp` is the cross-check, None without one."""

    noise_multiplier: float
    epsilon: float
    epsilon_rdp: float | None


def calibrate_noise(
    budget: float, delta: float, record_at: RecordAt, adjacency: str, queries: Records = ()
) -> Calibration:
    """The smallest noise multiplier whose epsilon at `delta` is at most `budget`, to within 1 % of epsilon.

    `record_at(noise_multiplier)` is the mechanism to calibrate, `queries` what the budget pays for beside
    it. Searches on a coarse grid and certifies on the fine one. Raises `BudgetError` where the answer would
    lie below 0.3 (accounting is slow and fragile there, and the run would be nearly without noise) and
    where the queries alone spend the budget.
    """

    def coarse(noise: float) -> float:
        record = record_at(noise)
        return LossCurve(record, adjacency, fixed=queries).epsilon(record.steps, delta)

    def fine(noise: float) -> float:
        return epsilon([*queries, record_at(noise)], delta, adjacency)

    _refuse_costly_queries(queries, budget, delta, adjacency)
    guess = max(_first_guess(budget, delta, record_at(1.0), queries, adjacency), SMALLEST_NOISE)
    noise = _search(coarse, budget, guess)
    certified = fine(noise)
    if not _tight(certified, budget):
        noise = _search(fine, budget, noise)
        certified = fine(noise)
    by_rdp = cross_check(certified, [*queries, record_at(noise)], delta, adjacency)
    return Calibration(noise_multiplier=noise, epsilon=certified, epsilon_rdp=by_rdp)


def _tight(certified: float, budget: float) -> bool:
    return (1.0 - TIGHTNESS) * budget <= certified <= budget


def _search(evaluate: Callable[[float], float], budget: float, guess: float) -> float:
    """Root of log epsilon = log budget in log noise, from below the budget: secant inside a bracket."""
    target = budget * (1.0 - AIM / 2)
    low, high = -math.inf, math.inf  # log noise known to be too little, known to be enough
    at = math.log(guess)
    previous: tuple[float, float] | None = None
    for _ in range(60):
        found = evaluate(math.exp(at))
        if budget * (1.0 - AIM) <= found <= budget:
            return math.exp(at)
        error = math.log(max(found, 1e-12) / target)
        low, high = (max(low, at), high) if error > 0 else (low, min(high, at))
        _refuse_too_little_noise(high, budget)
        at, previous = _next(at, error, previous, low, high), (at, error)
    raise DPDiffusersError(
        f"no noise multiplier found for epsilon {budget:g}",
        hint="raise budget.delta if it is below 1e-12; else change steps, expected_units or epsilon",
    )


def _next(at: float, error: float, previous: tuple[float, float] | None, low: float, high: float) -> float:
    slope = -1.5  # epsilon falls a little faster than 1 / noise
    if previous is not None and previous[0] != at:
        slope = (error - previous[1]) / (at - previous[0])
    step = -error / slope if slope < -0.05 else math.copysign(0.5, error)
    proposal = at + max(-1.0, min(1.0, step))
    if not low < proposal < high:
        proposal = (low + high) / 2
    return max(proposal, math.log(SMALLEST_NOISE))


def _refuse_too_little_noise(enough: float, budget: float) -> None:
    if enough <= math.log(SMALLEST_NOISE):
        raise BudgetError(
            f"epsilon {budget:g} would need a noise multiplier below {SMALLEST_NOISE}",
            hint="use the budget instead: more steps or more expected units, or ask for a smaller epsilon",
        )


def _refuse_costly_queries(queries: Records, budget: float, delta: float, adjacency: str) -> None:
    spent = epsilon(queries, delta, adjacency) if queries else 0.0
    if spent > budget * (1.0 - TIGHTNESS):
        names = ", ".join(query.name for query in queries)
        raise BudgetError(
            f"the side queries alone ({names}) spend epsilon {rounded_up_text(spent)} of a budget of "
            f"{budget:g}",
            hint="raise their noise multiplier, or the budget",
        )


def histogram_noise(epsilon: float, delta: float, adjacency: str) -> float:
    """Noise multiplier at which a class histogram alone would cost a tenth of `epsilon` at `delta`.

    See `noise_alone`.
    """
    return noise_alone(epsilon / 10.0, delta, adjacency)


def noise_alone(epsilon: float, delta: float, adjacency: str) -> float:
    """Noise multiplier at which one Gaussian query that all units take part in would cost `epsilon` alone.

    At least the smallest noise that is accounted for. A public rule, rounded up to four digits so that it is
    the same number everywhere.
    """
    return max(rounded_up(_apart(adjacency) / _gaussian_parameter(epsilon, delta)), SMALLEST_NOISE)


def rounded_up(noise: float) -> float:
    """The next number of four digits above, so that it is written the same everywhere."""
    digit = 10.0 ** (math.floor(math.log10(noise)) - 3)
    return float(f"{(math.floor(noise / digit) + 1) * digit:.4g}")


def _apart(adjacency: str) -> float:
    """How far one unit can move a sum, in clip norms."""
    return 2.0 if adjacency == "replace" else 1.0


def _first_guess(
    budget: float, delta: float, record: GaussianMechanism, queries: Records, adjacency: str
) -> float:
    """Noise multiplier by the central limit theorem: T steps behave like one Gaussian of parameter mu.

    The chi distance of one step is q sqrt(e^u - 1) for presence and q sqrt(2 e^u - 2 e^-u) for replacement,
    with u = 1 / sigma^2.
    """
    spent = sum(query.steps * (_apart(adjacency) * query.step_deviation()) ** 2 for query in queries)
    left = max(_gaussian_parameter(budget, delta) ** 2 - spent, 1e-12)
    squared = left / record.steps / record.sampling_probability**2
    exponent = math.asinh(squared / 4.0) if adjacency == "replace" else math.log1p(squared)
    return 1.0 / math.sqrt(exponent)


def _gaussian_parameter(epsilon: float, delta: float) -> float:
    """The largest mu for which mu-Gaussian differential privacy gives (epsilon, delta), from below."""
    low, high = 1e-9, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _gaussian_delta(epsilon, middle) < delta else (low, middle)
    return low


def _gaussian_delta(budget: float, mu: float) -> float:
    """Delta of mu-Gaussian differential privacy at epsilon (Dong, Roth and Su 2019, Corollary 2.13)."""
    first = math.erfc((budget / mu - mu / 2) / math.sqrt(2)) / 2
    second = math.erfc((budget / mu + mu / 2) / math.sqrt(2)) / 2
    return first - math.exp(budget) * second if second > 0 else first


@dataclass(frozen=True)
class PrefixTable:
    """Epsilon after some of the steps of a run, in rising order; between them it is rounded up.

    `before`: epsilon of the side queries, which count from the beginning, though one may be asked at the end.
    """

    steps: tuple[int, ...]
    epsilons: tuple[float, ...]
    before: float = 0.0

    def after(self, steps: int) -> float:
        """Epsilon after `steps` steps, or a little more than that; that of the queries after none."""
        if steps <= 0:
            return self.before
        for known, value in zip(self.steps, self.epsilons, strict=True):
            if steps <= known:
                return value
        raise DPDiffusersError(f"step {steps} lies beyond the table's last, {self.steps[-1]}")


def prefix_table(
    record: GaussianMechanism,
    delta: float,
    adjacency: str,
    certified: float,
    *,
    queries: Records = (),
    entries: int = 50,
) -> PrefixTable:
    """Epsilon after about `entries` prefixes; `certified` is the epsilon of all steps, never exceeded.

    `queries` count from the beginning, whenever they are asked, and `certified` covers them.
    Half of the prefixes grow geometrically (epsilon rises fast at first), half are evenly spaced.
    """
    total = record.steps
    half = entries // 2
    counts = {max(1, round(total ** (index / half))) for index in range(half)}
    counts |= {max(1, round(total * index / half)) for index in range(1, half + 1)}
    curve = LossCurve(record, adjacency, coarsest=max(SEARCH_GRID, certified * 1e-3), fixed=queries)
    steps = sorted(counts)
    before, *epsilons = (min(curve.epsilon(count, delta), certified) for count in (0, *steps[:-1]))
    return PrefixTable(tuple(steps), (*epsilons, certified), before)


def largest_steps(fits: Callable[[int], bool], at_least: int) -> int:
    """The largest number of steps that `fits`, where `at_least` does and fitting is monotone."""
    low, reach = at_least, max(1, at_least // 64)
    while fits(low + reach):
        low += reach
        reach *= 2
    high = low + reach
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
