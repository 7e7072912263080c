"""How the costs of several runs on one data set add up, and when a cap is reached.

Guarantee: what all admitted runs release together is (cap.epsilon, cap.delta)-private, though each plan
may be chosen after looking at earlier releases. Imports the accountant. Sources: Feldman and Zrnic 2021
(arXiv 2008.11193) for the Rényi filter, Rogers et al. 2016 (arXiv 1605.08294) for the adaptive sum.

    runs that spent   rule     total
    one               pld      the run's own epsilon at cap.delta: its parameters were fixed before it began
    more              filter   (sum of Rényi divergences at one fixed order), converted at cap.delta / 2
                      sum      sum of epsilons; sums of deltas up to cap.delta / 2
    more, no cap      sum      sum of epsilons at the sum of deltas

A filter's order has to be fixed before the first run: one that is chosen after seeing outputs has no proof.
It is the order under which the cap carries most steps of the first plan. A request is admitted when either
rule admits it; which one ends up binding may depend on what was released, so each gets half of delta.
Mechanisms whose Rényi divergence has no theorem are under the sum alone; if the first plan is such, there is
no order, and the sum has all of delta.

Stopping a run early is such a choice too: whoever stops it has seen its first steps. The filter's proof
covers that (it counts what was charged); the other rules cover runs whose length was fixed, so there a run
that was stopped counts all that it reserved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

from dp_diffusers.errors import LedgerError
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.budget import Budget, Cap, promises_nothing
from dp_diffusers.privacy.events import Record


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the first reservation fixes for the life of a ledger.

    `order` is null without a cap, and where the first plan's Rényi divergence has no theorem.
    """

    unit: str
    adjacency: str
    cap: Cap | None
    order: float | None

    @classmethod
    def first(cls, budget: Budget, record: Record, queries: Sequence[Record] = ()) -> Terms:
        """The terms that a ledger's first plan sets; `queries` run beside the steps of `record`."""
        order = None
        if budget.cap is not None and accountant.has_renyi([*queries, record], budget.adjacency):
            order = _best_order(budget.cap, record, queries, budget.adjacency)
        return cls(unit=budget.unit, adjacency=budget.adjacency, cap=budget.cap, order=order)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Terms:
        """Reads what `asdict` wrote."""
        cap = document["cap"]
        terms = cls(**{name: document[name] for name in ("unit", "adjacency", "cap", "order")})
        return replace(terms, cap=None if cap is None else Cap(cap["epsilon"], cap["delta"]))

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)

    def require(self, budget: Budget, where: str) -> None:
        """Raises `LedgerError`, naming each difference, unless `budget` has the terms of this ledger.

        A budget that asks for no cap of its own comes under this one, whatever it is.
        """
        cap = self.cap if budget.asks_for_no_cap else budget.cap
        pairs = (
            ("unit", self.unit, budget.unit),
            ("adjacency", self.adjacency, budget.adjacency),
            ("cap", _describe(self.cap), _describe(cap)),
        )
        different = [f"{name} {mine} there, {asked} asked" for name, mine, asked in pairs if mine != asked]
        if different:
            raise LedgerError(
                f"the ledger {where} was begun with other terms: {'; '.join(different)}",
                hint="its first run fixed them: set budget.unit, budget.adjacency and budget.cap to the same",
            )

    def require_delta(self, population: int, where: str) -> None:
        """Raises `LedgerError` where the cap's delta is not below 1 / population: it would promise nothing.

        A plan's own cap is held against its population when the plan is made; this one may be another's.
        """
        if self.cap is not None and promises_nothing(self.cap.delta, population):
            raise LedgerError(
                f"the cap of the ledger {where} has delta {self.cap.delta:g}, not below 1 / population = "
                f"{1 / population:.3g}: it limits nothing",
                hint="its first run fixed it for good, and another ledger would not count what this one "
                "does: ask whoever answers for these images",
            )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some steps of one run cost: epsilon at the run's own delta and at the cap's, and Rényi loss.

    `renyi` is None where it has no theorem; then the filter does not apply.
    """

    epsilon: float
    delta: float
    epsilon_at_cap: float
    renyi: float | None

    @property
    def counts(self) -> bool:
        """Whether anything was charged: a step may have epsilon 0, and still its delta."""
        return self.epsilon > 0 or self.renyi != 0.0

    def to_dict(self) -> dict[str, float | None]:
        """All fields, for JSON."""
        return asdict(self)

    @classmethod
    def nothing(cls, delta: float) -> Cost:
        """The cost of a run that charged no step."""
        return cls(epsilon=0.0, delta=delta, epsilon_at_cap=0.0, renyi=0.0)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Cost:
        """Reads what `to_dict` wrote."""
        return cls(**{name: document[name] for name in ("epsilon", "delta", "epsilon_at_cap", "renyi")})


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Total of a ledger: `epsilon` at `delta`, and the rule that gave it (none, pld, filter, sum)."""

    epsilon: float
    delta: float
    rule: str


class CostCurve:
    """Cost of a run after its queries and any number of its steps; coarse, and certified where asked."""

    def __init__(self, record: Record, delta: float, terms: Terms, queries: Sequence[Record] = ()) -> None:
        self._record, self._delta, self._terms = record, delta, terms
        self._queries = [query for query in queries if query.steps]
        self._delta_at_cap = delta if terms.cap is None else terms.cap.delta
        self._losses = [self._renyi(each) for each in (record, *self._queries)]

    @cached_property
    def _curve(self) -> accountant.LossCurve:
        return accountant.LossCurve(self._record, self._terms.adjacency, fixed=self._queries)

    def coarse(self, steps: int) -> Cost:
        """An upper bound in tens of milliseconds."""
        if not steps and not self._queries:
            return Cost.nothing(self._delta)
        return self._cost(steps, lambda delta: self._curve.epsilon(steps, delta))

    def certified(self, steps: int) -> Cost:
        """The bound on the certificate's grid, up to a second."""
        records = [*self._queries, *([self._record.with_steps(steps)] if steps else [])]
        if not records:
            return Cost.nothing(self._delta)
        return self._cost(steps, lambda delta: accountant.epsilon(records, delta, self._terms.adjacency))

    def _cost(self, steps: int, epsilon: Callable[[float], float]) -> Cost:
        own = epsilon(self._delta)
        at_cap = own if self._delta_at_cap == self._delta else epsilon(self._delta_at_cap)
        return Cost(epsilon=own, delta=self._delta, epsilon_at_cap=at_cap, renyi=self._renyi_after(steps))

    def _renyi(self, record: Record) -> float | None:
        """Rényi divergence of one step at the ledger's order."""
        order, adjacency = self._terms.order, self._terms.adjacency
        if order is None or not accountant.has_renyi([record], adjacency):
            return None
        return accountant.renyi_of_one_step(record, [order], adjacency)[0]

    def _renyi_after(self, steps: int) -> float | None:
        counts = [steps, *(query.steps for query in self._queries)]
        found = [one * count for one, count in zip(self._losses, counts, strict=True) if one is not None]
        return sum(found) if len(found) == len(counts) else None


def total(costs: Sequence[Cost], terms: Terms) -> Spent:
    """What `costs`, one per run, come to under the table above."""
    costs = [cost for cost in costs if cost.counts]
    if not costs:
        return Spent(epsilon=0.0, delta=0.0, rule="none")
    if terms.cap is None:
        summed = sum(cost.epsilon for cost in costs)
        return Spent(epsilon=summed, delta=sum(cost.delta for cost in costs), rule="sum")
    if len(costs) == 1:
        return Spent(epsilon=costs[0].epsilon_at_cap, delta=terms.cap.delta, rule="pld")
    return _several(costs, terms.cap, terms.order)


def _several(costs: Sequence[Cost], cap: Cap, order: float | None) -> Spent:
    """The smaller of filter and sum, each of them at its share of the cap's delta."""
    share = cap.delta if order is None else cap.delta / 2
    by_filter, by_sum = _filtered(costs, order, share), _summed(costs, share)
    if by_sum < by_filter or order is None:
        return Spent(epsilon=by_sum, delta=cap.delta, rule="sum")
    return Spent(epsilon=by_filter, delta=cap.delta, rule="filter")


def _filtered(costs: Sequence[Cost], order: float | None, delta: float) -> float:
    divergences = [cost.renyi for cost in costs if cost.renyi is not None]
    if order is None or len(divergences) < len(costs):
        return math.inf
    return max(accountant.renyi_to_epsilon(sum(divergences), order, delta), 0.0)


def _summed(costs: Sequence[Cost], delta: float) -> float:
    if sum(Decimal(repr(cost.delta)) for cost in costs) > Decimal(repr(delta)):
        return math.inf  # three times 1e-5 is 3e-5 as whoever wrote it counts, and more in binary fractions
    return sum(cost.epsilon for cost in costs)


def cost_when_stopped(charged: Cost, reserved: Cost, terms: Terms) -> Cost:
    """What a run counts that was stopped before its planned end, by a choice that may depend on its steps.

    Where the reservation fits the cap under filter or sum, the filter counts what was `charged` and the
    other rules count what was `reserved`. Else the whole delta of the cap is this run's, and it counts all.
    """
    if terms.cap is None or _several([reserved], terms.cap, terms.order).epsilon > terms.cap.epsilon:
        return reserved
    return replace(reserved, renyi=charged.renyi)


def within_cap(costs: Sequence[Cost], terms: Terms) -> bool:
    """Whether `costs` fit the cap of the ledger."""
    return terms.cap is None or total(costs, terms).epsilon <= terms.cap.epsilon


def _best_order(cap: Cap, record: Record, queries: Sequence[Record], adjacency: str) -> float:
    """The Rényi order at which the cap carries most steps of `record`, beside `queries`."""
    orders = accountant.renyi_orders()
    losses = accountant.renyi_of_one_step(record, orders, adjacency)
    asked = [(query.steps, accountant.renyi_of_one_step(query, orders, adjacency)) for query in queries]
    beneath = [sum(steps * values[index] for steps, values in asked) for index in range(len(orders))]

    def steps_carried(numbers: tuple[float, float, float]) -> float:
        order, loss, spent = numbers
        if not (math.isfinite(loss) and math.isfinite(spent)):
            return -math.inf  # the series of some fractional orders does not converge
        room = cap.epsilon - accountant.renyi_to_epsilon(spent, order, cap.delta / 2)
        return room / loss if loss > 0 else -math.inf

    return max(zip(orders, losses, beneath, strict=True), key=steps_carried)[0]


def _describe(cap: Cap | None) -> str:
    return "null" if cap is None else f"(epsilon {cap.epsilon:g}, delta {cap.delta:g})"
