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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dp_diffusers.errors import LedgerError
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.events import GaussianMechanism


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the first reservation fixes for the life of a ledger; `order` is null without a cap."""

    unit: str
    adjacency: str
    cap: Cap | None
    order: float | None

    @classmethod
    def first(cls, budget: Budget, record: GaussianMechanism) -> Terms:
        """The terms that a ledger's first plan sets."""
        order = None if budget.cap is None else _best_order(budget.cap, record)
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
        """Raises `LedgerError`, naming each difference, unless `budget` has the terms of this ledger."""
        pairs = (
            ("unit", self.unit, budget.unit),
            ("adjacency", self.adjacency, budget.adjacency),
            ("cap", _describe(self.cap), _describe(budget.cap)),
        )
        different = [f"{name} {mine} there, {asked} asked" for name, mine, asked in pairs if mine != asked]
        if different:
            raise LedgerError(
                f"the ledger {where} was begun with other terms: {'; '.join(different)}",
                hint="its first run fixed them: set budget.unit, budget.adjacency and budget.cap to the same",
            )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some steps of one run cost: epsilon at the run's own delta and at the cap's, and Rényi loss."""

    epsilon: float
    delta: float
    epsilon_at_cap: float
    renyi: float

    def to_dict(self) -> dict[str, float]:
        """All fields, for JSON."""
        return asdict(self)

    @classmethod
    def nothing(cls, delta: float) -> Cost:
        """The cost of a run that charged no step."""
        return cls(epsilon=0.0, delta=delta, epsilon_at_cap=0.0, renyi=0.0)

    @classmethod
    def from_dict(cls, document: Mapping[str, float]) -> Cost:
        """Reads what `to_dict` wrote."""
        return cls(**{name: document[name] for name in ("epsilon", "delta", "epsilon_at_cap", "renyi")})


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Total of a ledger: `epsilon` at `delta`, and the rule that gave it (none, pld, filter, sum)."""

    epsilon: float
    delta: float
    rule: str


class CostCurve:
    """Cost of a run after any number of steps; coarse, and certified where asked."""

    def __init__(self, record: GaussianMechanism, delta: float, terms: Terms) -> None:
        self._record, self._delta, self._terms = record, delta, terms
        self._delta_at_cap = delta if terms.cap is None else terms.cap.delta
        orders = [] if terms.order is None else [terms.order]
        self._renyi = accountant.renyi_of_one_step(record, orders)[0] if orders else 0.0
        self._curve = accountant.LossCurve(record, terms.adjacency)

    def coarse(self, steps: int) -> Cost:
        """An upper bound in tens of milliseconds."""
        return self._cost(steps, lambda delta: self._curve.epsilon(steps, delta))

    def certified(self, steps: int) -> Cost:
        """The bound on the certificate's grid, up to a second."""
        if steps == 0:
            return Cost.nothing(self._delta)
        records, adjacency = [replace(self._record, steps=steps)], self._terms.adjacency
        return self._cost(steps, lambda delta: accountant.epsilon(records, delta, adjacency))

    def _cost(self, steps: int, epsilon: Any) -> Cost:
        own = epsilon(self._delta)
        at_cap = own if self._delta_at_cap == self._delta else epsilon(self._delta_at_cap)
        return Cost(epsilon=own, delta=self._delta, epsilon_at_cap=at_cap, renyi=self._renyi * steps)


def total(costs: Sequence[Cost], terms: Terms) -> Spent:
    """What `costs`, one per run, come to under the table above."""
    costs = [cost for cost in costs if cost.epsilon > 0 or cost.renyi > 0]
    if terms.cap is None:
        summed = sum(cost.epsilon for cost in costs)
        return Spent(epsilon=summed, delta=sum(cost.delta for cost in costs), rule="sum" if costs else "none")
    delta = terms.cap.delta
    if not costs:
        return Spent(epsilon=0.0, delta=0.0, rule="none")
    if len(costs) == 1:
        return Spent(epsilon=costs[0].epsilon_at_cap, delta=delta, rule="pld")
    assert terms.order is not None
    filtered = accountant.renyi_to_epsilon(sum(cost.renyi for cost in costs), terms.order, delta / 2)
    best = Spent(epsilon=max(filtered, 0.0), delta=delta, rule="filter")
    summed = sum(cost.epsilon for cost in costs)
    if sum(cost.delta for cost in costs) <= delta / 2 and summed < best.epsilon:
        best = Spent(epsilon=summed, delta=delta, rule="sum")
    return best


def within_cap(costs: Sequence[Cost], terms: Terms) -> bool:
    """Whether `costs` fit the cap of the ledger."""
    return terms.cap is None or total(costs, terms).epsilon <= terms.cap.epsilon


def _best_order(cap: Cap, record: GaussianMechanism) -> float:
    """The Rényi order at which the cap carries most steps of `record`."""
    orders = accountant.renyi_orders()
    losses = accountant.renyi_of_one_step(record, orders)

    def steps_carried(pair: tuple[float, float]) -> float:
        order, loss = pair
        room = cap.epsilon - accountant.renyi_to_epsilon(0.0, order, cap.delta / 2)
        return room / loss if loss > 0 else -float("inf")

    return max(zip(orders, losses, strict=True), key=steps_carried)[0]


def _describe(cap: Cap | None) -> str:
    return "null" if cap is None else f"(epsilon {cap.epsilon:g}, delta {cap.delta:g})"
