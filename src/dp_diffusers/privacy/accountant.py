"""Epsilon of recorded mechanisms: an upper bound from privacy loss distributions, cross-checked with RDP.

Guarantee: every number returned is pessimistic (privacy loss is rounded up to a grid that is fine against
one step's loss; delta leaves room for the rounding of float64). Imports dp_accounting inside functions only,
never torch. Sources: Koskela et al. 2020 (arXiv 1906.03049), Doroshenko et al. 2022 (arXiv 2207.04380),
Mironov et al. 2019 (arXiv 1908.10530).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from dp_diffusers.errors import DPDiffusersError, ParameterError
from dp_diffusers.privacy.budget import ADJACENCIES
from dp_diffusers.privacy.events import GaussianMechanism, Record

SEARCH_GRID: Final = 1e-3
CERTIFICATE_GRID: Final = 1e-4
FINEST_GRID: Final = 1e-9
MOST_CELLS: Final = 3e4  # of the losses of one step: seconds and gigabytes grow with them
USEFUL: Final = 0.008  # share of a step's loss deviation below which a finer grid changes nothing
# What one composed step adds to delta by the rounding of the Fourier transforms: at most four tenths of this
# were measured, against the closed form and against tilted compositions, for up to 100,000 steps.
ROUNDING: Final = 2.0**-52
LEAST: Final = 5e-15  # above the tails that dp_accounting cuts off, 1e-15 for each composition
RDP_SLACK: Final = 1.01  # a privacy loss distribution above 1.01 x RDP is a numerical fault

Records = Sequence[Record]


def grid_for(records: Records, coarsest: float | None = None, fraction: float = 0.1) -> float:
    """The rounding grid: `coarsest`, or `fraction` of one step's loss deviation where that is less.

    Rounding to a grid g adds about g^2 / 12 to the variance of each step's loss; at a tenth of the loss's
    own deviation that is under 0.1 %, while 1e-4 alone is 30 % off at q = 0.001, sigma = 20. Where one step
    loses much, as with little noise, 1e-4 is finer than is of use: `coarsest`, if not given, is 1e-4 or
    0.8 % of the deviation, at most 1e-3, which changes epsilon by less than 1e-5 of itself. Where few units
    of very many are in a step, losses go a hundred thousand deviations far, and the grid has `MOST_CELLS`.
    """
    deviations = [record.step_deviation() for record in records if record.steps]
    if coarsest is None:
        useful = min([SEARCH_GRID, *(USEFUL * deviation for deviation in deviations)])
        coarsest = max(CERTIFICATE_GRID, useful)
    widest = max((record.step_range() for record in records if record.steps), default=0.0)
    least = max(FINEST_GRID, widest / MOST_CELLS)
    return max(min([coarsest, *(fraction * deviation for deviation in deviations)]), least)


def epsilon(
    records: Records, delta: float, adjacency: str = "add_remove", *, grid: float | None = None
) -> float:
    """Epsilon at `delta` of all `records` composed, by `dp_accounting.pld.PLDAccountant`.

    `grid`: rounding of the privacy loss, `grid_for(records)` if not given; any grid gives an upper bound.
    Where delta is too small for double precision (`method`), by Rényi differential privacy. Raises
    `ParameterError` for an unknown adjacency, `DPDiffusersError` if the accountant has no finite answer.
    """
    if method(records, delta) == "rdp":
        return _by_rdp_alone(records, delta, adjacency)
    from dp_accounting import pld

    accountant = pld.PLDAccountant(relation(adjacency), grid or grid_for(records))
    for record in records:
        with _limit_that_counts(record):
            accountant.compose(record.event())
    return _finite(float(accountant.get_epsilon(_above_rounding(records, delta))))


def method(records: Records, delta: float) -> str:
    """`pld`, or `rdp` where half of delta would be within the rounding of that many composed steps.

    So too where next to nothing of it is left beside the tails that are cut off.
    """
    return "pld" if _above_rounding(records, delta) >= max(delta / 2, LEAST) else "rdp"


def _above_rounding(records: Records, delta: float) -> float:
    return delta - ROUNDING * sum(record.steps for record in records)


def _by_rdp_alone(records: Records, delta: float, adjacency: str) -> float:
    """Raises `ParameterError` without a theorem."""
    found = epsilon_rdp(records, delta, adjacency)
    if found is None:
        raise ParameterError(
            f"delta {delta:g} is too small to be told from rounding over so many steps",
            hint="raise budget.delta; 1e-9 is smaller than one over any population",
        )
    return _finite(found)


def has_renyi(records: Records, adjacency: str) -> bool:
    """Whether dp_accounting has a theorem for the Rényi divergence of every one of `records`.

    It has none where a unit's images are replaced by others, and none for truncated sampling.
    """
    return adjacency != "replace" and all(record.sampling != "truncated" for record in records)


def epsilon_rdp(records: Records, delta: float, adjacency: str = "add_remove") -> float | None:
    """Epsilon at `delta` by Rényi differential privacy: looser, and independent of `epsilon`.

    None without a theorem (`has_renyi`).
    """
    from dp_accounting import rdp

    if not has_renyi(records, adjacency):
        return None
    with _quiet_absl():
        accountant = rdp.RdpAccountant(neighboring_relation=relation(adjacency))
        for record in records:
            accountant.compose(record.event())
        return float(accountant.get_epsilon(delta))


def cross_check(by_pld: float, records: Records, delta: float, adjacency: str) -> float | None:
    """`epsilon_rdp`, checked to lie above `by_pld`. Raises `DPDiffusersError` where it does not."""
    by_rdp = epsilon_rdp(records, delta, adjacency)
    if by_rdp is not None:
        check_against_rdp(by_pld, by_rdp)
    return by_rdp


def check_against_rdp(by_pld: float, by_rdp: float) -> None:
    """Raises `DPDiffusersError` where the tighter method gives more than 1.01 x the looser one."""
    if not by_pld <= RDP_SLACK * by_rdp + 1e-6:
        raise DPDiffusersError(
            f"the accountants disagree: epsilon {by_pld:.6g} by privacy loss distribution, "
            f"{by_rdp:.6g} by RDP, which should be the larger",
            hint="a numerical fault for these numbers; please report them and change steps or expected_units",
        )


def renyi_orders() -> list[float]:
    """The Rényi orders worth trying: dense where epsilon is large, up to 1024 where it is small."""
    fractions = [1.0 + step / 4.0 for step in range(1, 12)]
    return [*fractions, *map(float, range(4, 64)), 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0]


def renyi_of_one_step(record: Record, orders: Sequence[float], adjacency: str = "add_remove") -> list[float]:
    """Rényi divergence of one step at each order (Mironov et al. 2019).

    Raises `ParameterError` without a theorem; `has_renyi` says so beforehand.
    """
    from dp_accounting import rdp

    if not has_renyi([record], adjacency):
        raise ParameterError(f"no Rényi divergence is known for {record.name} under adjacency {adjacency}")
    with _quiet_absl():
        accountant = rdp.RdpAccountant(orders=list(orders))
        accountant.compose(record.with_steps(1).event())
        return [float(value) for value in accountant.rdp]


def renyi_to_epsilon(divergence: float, order: float, delta: float) -> float:
    """Epsilon at `delta` of an (order, divergence)-RDP mechanism.

    Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), Proposition 12. May be negative for small
    divergences, which a caller reads as 0.
    """
    return divergence + math.log1p(-1.0 / order) - math.log(delta * order) / (order - 1.0)


class LossCurve:
    """Epsilon of a mechanism after any number of its steps; one step's loss is computed once and reused.

    `fixed`: records that have run beside the steps, all of theirs, and are composed with them.
    """

    def __init__(
        self, record: Record, adjacency: str, *, coarsest: float = SEARCH_GRID, fixed: Records = ()
    ) -> None:
        fixed = [query for query in fixed if query.steps]
        self._record, self._beside, self._adjacency = record, fixed, adjacency
        one = record.with_steps(1)
        grid = grid_for([one, *fixed], coarsest, fraction=0.2)
        self._one_step = one_step_loss(one, adjacency, grid)
        self._fixed: Any = None
        for query in fixed:
            loss = one_step_loss(query, adjacency, grid).self_compose(query.steps)
            self._fixed = loss if self._fixed is None else self._fixed.compose(loss)

    def epsilon(self, steps: int, delta: float) -> float:
        """Epsilon at `delta` after `steps` steps and what is fixed; 0 after nothing."""
        records = [*self._beside, *([self._record.with_steps(steps)] if steps else [])]
        if records and method(records, delta) == "rdp":
            found = epsilon_rdp(records, delta, self._adjacency)
            return math.inf if found is None else found
        composed = self._one_step.self_compose(steps) if steps else None
        if self._fixed is not None:
            composed = self._fixed if composed is None else self._fixed.compose(composed)
        return (
            0.0
            if composed is None
            else float(composed.get_epsilon_for_delta(_above_rounding(records, delta)))
        )


def one_step_loss(record: Record, adjacency: str, grid: float) -> Any:
    """dp_accounting's `PrivacyLossDistribution` of one step, rounded up to multiples of `grid`."""
    from dp_accounting.pld import privacy_loss_distribution

    common = {"value_discretization_interval": grid, "neighboring_relation": relation(adjacency)}
    if isinstance(record, GaussianMechanism) and record.max_units is not None:
        with _limit_that_counts(record):
            return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
                dataset_size=record.population,
                sampling_probability=record.sampling_probability,
                truncated_batch_size=record.max_units,
                noise_multiplier=record.noise_multiplier,
                **common,
            )
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=record.noise_multiplier,
        sampling_prob=record.sampling_probability if isinstance(record, GaussianMechanism) else 1.0,
        **common,
    )


@contextmanager
def _limit_that_counts(record: Record) -> Iterator[None]:
    """A limit so far out that its chance is no ordinary float makes dp_accounting divide by zero."""
    try:
        yield
    except (ValueError, ZeroDivisionError, FloatingPointError) as error:
        limit = getattr(record, "max_units", None)
        if limit is None:
            raise
        raise ParameterError(
            f"max_units {limit} is never met in practice, and cannot be accounted for",
            hint="lower mechanism.max_units; five standard deviations above the mean are enough",
        ) from error


def relation(adjacency: str) -> Any:
    """dp_accounting's name for `adjacency`."""
    from dp_accounting import NeighboringRelation

    if adjacency not in ADJACENCIES:
        raise ParameterError(f"expected adjacency to be one of {', '.join(ADJACENCIES)}, got {adjacency!r}")
    return {
        "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "zero_out": NeighboringRelation.REPLACE_SPECIAL,
        "replace": NeighboringRelation.REPLACE_ONE,
    }[adjacency]


def library_version() -> str:
    """`dp-accounting` and its version, for certificates."""
    from importlib.metadata import version

    return f"dp-accounting {version('dp-accounting')}"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise DPDiffusersError(
            "the accountant finds no finite epsilon for these numbers",
            hint="raise delta or the noise multiplier",
        )
    return value


@contextmanager
def _quiet_absl() -> Iterator[None]:
    """RDP logs a warning per order that does not converge; such an order is merely not the best one."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
