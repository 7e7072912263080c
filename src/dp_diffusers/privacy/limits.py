"""The most steps that a run may charge, so that neither its budget nor the cap is ever passed.

Guarantee: the cost of the limit, side queries included, is certified and within both; a side query that is
asked again lowers it and never raises it. Imports the accountant. Source: guarantee 6 of the design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dp_diffusers.errors import BudgetError
from dp_diffusers.privacy.calibration import largest_steps
from dp_diffusers.privacy.runs import Run, reserved
from dp_diffusers.privacy.spending import Cost, CostCurve, Terms, within_cap


class Room:
    """What a run may cost: `epsilon` at its own delta, and what `others` leave of the cap."""

    def __init__(self, epsilon: float, others: Sequence[Cost], terms: Terms) -> None:
        self._epsilon, self._others, self._terms = epsilon, others, terms

    def holds(self, cost: Cost) -> bool:
        """Whether a run of this cost fits."""
        return cost.epsilon <= self._epsilon and within_cap([*self._others, cost], self._terms)


def first_limit(curve: CostCurve, planned: Cost, steps: int, room: Room) -> tuple[int, Cost]:
    """The most steps of a new run, redone ones included, at least those planned; and their cost."""
    limit = largest_steps(lambda count: room.holds(curve.coarse(count)), steps)
    if limit > steps and room.holds(cost := curve.certified(limit)):
        return limit, cost
    return steps, planned


def limit_after(run: Run, asked: Mapping[str, int], room: Room, terms: Terms) -> tuple[int, Cost]:
    """The most steps of `run` once its side queries were `asked` so often, and the cost of both.

    Raises `BudgetError` where no step would be left to train with; where all are done, none need be.
    """
    curve = CostCurve(run.record, run.cost.delta, terms, reserved(run.queries, asked))

    def fits(count: int) -> bool:
        return count <= run.limit and room.holds(curve.coarse(count))

    trained = run.steps_charged >= min(run.record.steps, run.limit)
    least = run.steps_charged if trained else run.steps_charged + 1
    if not fits(least):
        names = ", ".join(name for name, count in asked.items() if count > run.asked.get(name, 0))
        left = "there is no room for it" if trained else "no step would be left"
        raise BudgetError(
            f"run {run.run_id} cannot pay for {names} again: {left} in its budget or the cap",
            hint="its result was lost between payment and disk; give the run up with `ledger abandon`",
        )
    limit = largest_steps(fits, least)
    certified = curve.certified(limit)
    return limit, certified if room.holds(certified) else curve.coarse(limit)
