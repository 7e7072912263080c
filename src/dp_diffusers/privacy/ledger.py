"""What was paid for one data set, by all runs: the ledger and the reservations in it.

Guarantee: a step is charged on disk before its receipt exists, so that the ledger never says less than what
was released; no run passes its budget or what is left of the cap, steps that it redoes included. Imports
the standard library, and the accountant while reserving. Source: privacy odometers, Rogers et al. 2016.

    first  terms    unit, adjacency, cap and filter order, fixed for good
    run    reserve  the plan, the most steps it may charge (`limit`) and their whole cost
           lane     a process began to charge; the lanes before it are void
           charge   one step, before it is released
           settle   the run is over: it costs what it charged      | cancel   it charged nothing
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from dp_diffusers.errors import BudgetError, GuaranteeError, LedgerError
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import GaussianMechanism, record_from_dict
from dp_diffusers.privacy.ledger_file import BUSY_SECONDS, Entry, LedgerFile
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.privacy.spending import Cost, CostCurve, Spent, Terms, total, within_cap


class Plannable(Protocol):
    """What the ledger needs of a plan."""

    @property
    def budget(self) -> Budget | None:
        """What the run may spend."""

    @property
    def record(self) -> GaussianMechanism | None:
        """The mechanism that the run charges for."""

    @property
    def epsilon(self) -> float:
        """Certified epsilon of all planned steps."""

    @property
    def fingerprint(self) -> str:
        """Identity of the plan."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where one run stands: `status` is open, settled or cancelled; `cost` counts an open run's limit."""

    run_id: str
    plan_fingerprint: str
    record: GaussianMechanism
    limit: int
    steps_charged: int
    status: str
    cost: Cost


class Ledger:
    """All charges against one data set. Use `Ledger.open`; `close` it or use it in a `with` block."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        expect_head: str | None = None,
        create: bool = True,
        busy_seconds: float = BUSY_SECONDS,
    ) -> Ledger:
        """Opens the ledger at `path` (":memory:" for tests) and verifies all of it.

        `expect_head`: a head that a run folder or certificate knows; a ledger without it is refused, as it
        was restored from an older copy or is another one. `create=False` refuses a path with no ledger.
        Raises `LedgerError` for a file that is locked, damaged, altered, or not a ledger.
        """
        file = LedgerFile(path, create=create, busy_seconds=busy_seconds)
        if expect_head is not None and not file.has_head(expect_head):
            file.close()
            raise LedgerError(
                f"the ledger {path} does not contain the head {expect_head[:12]}… that this run knows",
                hint="it is an older copy or another ledger; put back the one the run was charged to",
            )
        return cls(file)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Everything charged is already on disk."""
        self._file.close()

    @property
    def path(self) -> str:
        """The file, or ":memory:"."""
        return self._file.path

    @property
    def head(self) -> str:
        """Hash of the newest entry; 64 zeros in an empty ledger."""
        return self._file.head()

    @property
    def terms(self) -> Terms | None:
        """Unit, adjacency and cap; None until the first reservation."""
        first = self._file.of_kind("terms")
        return Terms.from_dict(first[0].content) if first else None

    def entries(self) -> list[Entry]:
        """Every entry, oldest first."""
        return self._file.entries()

    def runs(self) -> list[Run]:
        """Every run, in the order of reservation."""
        return [self._run(entry) for entry in self._file.of_kind("reserve")]

    def spent(self) -> Spent:
        """What all runs come to: settled runs at what they charged, open runs at their limit."""
        terms = self.terms
        if terms is None:
            return Spent(epsilon=0.0, delta=0.0, rule="none")
        return total([run.cost for run in self.runs()], terms)

    def reserve(self, plan: Plannable) -> Reservation:
        """Writes the whole cost of `plan` before anything is released.

        Raises `LedgerError` if the plan's unit, adjacency or cap differ from the ledger's, `BudgetError` if
        the total would pass the cap; then nothing was written.
        """
        budget, record = plan.budget, plan.record
        if budget is None or record is None:
            raise GuaranteeError("a plan that is not private has nothing to reserve")
        terms = self.terms or Terms.first(budget, record)
        curve = CostCurve(record, budget.delta, terms)
        planned = curve.certified(record.steps)
        run_id = secrets.token_hex(8)
        with self._file.transaction():
            terms.require(budget, self.path)
            (self.terms or terms).require(budget, self.path)
            self._require_same_order(terms)
            others = [run.cost for run in self.runs()]
            self._require_room([*others, planned], terms)
            limit, cost = _limit(curve, planned, record.steps, others, budget, terms)
            if self.terms is None:
                self._file.append("terms", "", at=_now(), **terms.to_dict())
            self._file.append(
                "reserve",
                run_id,
                at=_now(),
                count=0,
                limit=limit,
                fingerprint=plan.fingerprint,
                budget=budget.to_dict(),
                mechanism=record.to_dict(),
                cost=cost.to_dict(),
            )
        return self.resume(run_id)

    def resume(self, run_id: str) -> Reservation:
        """The open run `run_id`, to charge from a new lane. Raises `LedgerError` if unknown or closed."""
        run = self.run(run_id)
        if run.status != "open":
            raise LedgerError(f"run {run_id} is {run.status} in {self.path}", hint="start a new run")
        return Reservation(self._file, run_id, run.plan_fingerprint, run.limit, self._settled_cost)

    def run(self, run_id: str) -> Run:
        """Where `run_id` stands. Raises `LedgerError` if the ledger does not know it."""
        for entry in self._file.of_kind("reserve"):
            if entry.run == run_id:
                return self._run(entry)
        raise LedgerError(f"run {run_id} is not in the ledger {self.path}")

    def _run(self, entry: Entry) -> Run:
        last = self._file.last_of_run(entry.run) or entry
        status = {"settle": "settled", "cancel": "cancelled"}.get(last.kind, "open")
        cost = last.content.get("cost", entry.content["cost"])
        return Run(
            run_id=entry.run,
            plan_fingerprint=entry.content["fingerprint"],
            record=record_from_dict(entry.content["mechanism"]),
            limit=entry.content["limit"],
            steps_charged=last.content["count"],
            status=status,
            cost=Cost.from_dict(cost),
        )

    def _settled_cost(self, run_id: str, steps: int) -> Mapping[str, float]:
        """Cost of `steps` steps of a run, for the entry that closes it."""
        run, terms = self.run(run_id), self.terms
        assert terms is not None
        if steps == run.limit:
            return run.cost.to_dict()
        return CostCurve(run.record, run.cost.delta, terms).certified(steps).to_dict()

    def _require_same_order(self, terms: Terms) -> None:
        if self.terms not in (None, terms):
            raise LedgerError(
                f"another process began the ledger {self.path} at the same time", hint="run again"
            )

    def _require_room(self, costs: Sequence[Cost], terms: Terms) -> None:
        if within_cap(costs, terms):
            return
        assert terms.cap is not None
        spent, wanted, cap = total(costs[:-1], terms), total(costs, terms), terms.cap
        raise BudgetError(
            f"this run would bring the ledger {self.path} from epsilon {spent.epsilon:.4g} to "
            f"{wanted.epsilon:.4g}, above its cap of {cap.epsilon:g} (delta {cap.delta:g})",
            hint="lower budget.epsilon or mechanism.steps; the cap belongs to the data set, not to the run",
        )


def _limit(
    curve: CostCurve, planned: Cost, steps: int, others: Sequence[Cost], budget: Budget, terms: Terms
) -> tuple[int, Cost]:
    """The most steps the run may charge, redone ones included, and their certified cost."""
    from dp_diffusers.privacy.calibration import largest_steps

    def allowed(cost: Cost) -> bool:
        return cost.epsilon <= budget.epsilon and within_cap([*others, cost], terms)

    limit = largest_steps(lambda count: allowed(curve.coarse(count)), steps)
    if limit > steps and allowed(cost := curve.certified(limit)):
        return limit, cost
    return steps, planned


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

