"""What was paid for one data set, by all runs: the ledger and the reservations in it.

Guarantee: a step is charged on disk before its receipt exists, so that the ledger never says less than what
was released; no run passes its budget or what is left of the cap, steps that it redoes included. Imports
the standard library, and the accountant while reserving. Source: privacy odometers, Rogers et al. 2016.

    first  terms    unit, adjacency, cap and filter order, fixed for good
    run    reserve  the plan, the most steps it may charge (`limit`) and their whole cost, queries included
           lane     a process began to charge; the lanes before it are void
           query    one side query, before it is released; asked again, it lowers `limit`
           charge   one step, before it is released
           settle   the run is over: it costs what it charged, more where its end was chosen
           cancel   the run is over and charged nothing
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from dp_diffusers.errors import BudgetError, GuaranteeError, LedgerError
from dp_diffusers.privacy import ending
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.canonical import canonical_json
from dp_diffusers.privacy.events import GaussianMechanism, Record
from dp_diffusers.privacy.ledger_file import BUSY_SECONDS, Entry, LedgerFile, utc_now
from dp_diffusers.privacy.limits import Room, first_limit
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.privacy.room_words import held_by_open_runs, what_is_left
from dp_diffusers.privacy.runs import Run, read_run
from dp_diffusers.privacy.spending import Cost, CostCurve, Spent, Terms, total, within_cap
from dp_diffusers.rounding import rounded_up_text


class Plannable(Protocol):
    """What the ledger needs of a plan."""

    @property
    def budget(self) -> Budget | None:
        """What the run may spend."""

    @property
    def record(self) -> GaussianMechanism | None:
        """The mechanism that the run charges for."""

    @property
    def queries(self) -> tuple[Record, ...]:
        """The side queries that it charges for beside them."""

    @property
    def epsilon(self) -> float:
        """Certified epsilon of all planned steps and queries."""

    @property
    def fingerprint(self) -> str:
        """Identity of the plan."""


class Ledger:
    """All charges against one data set. Use `Ledger.open`; `close` it or use it in a `with` block."""

    def __init__(self, file: LedgerFile) -> None:
        self.file = file

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
        if expect_head is not None and not Path(path).exists():
            raise LedgerError(
                f"no ledger at {path}, to which this run was charged",
                hint="put it back: what was spent is written nowhere else",
            )
        ledger = cls(LedgerFile(path, create=create, busy_seconds=busy_seconds))
        if expect_head is not None:
            ledger.require_head(expect_head)
        return ledger

    def require_head(self, head: str) -> None:
        """Closes the ledger and raises `LedgerError` unless `head` is, or once was, its head."""
        if self.file.has_head(head):
            return
        self.close()
        raise LedgerError(
            f"the ledger {self.path} does not contain the head {head[:12]}… that this run knows",
            hint="it is an older copy or another ledger; put back the one the run was charged to",
        )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Everything charged is already on disk."""
        self.file.close()

    @property
    def path(self) -> str:
        """The file, or ":memory:"."""
        return self.file.path

    @property
    def head(self) -> str:
        """Hash of the newest entry; 64 zeros in an empty ledger."""
        return self.file.head()

    @property
    def terms(self) -> Terms | None:
        """Unit, adjacency and cap; None until the first reservation, or while every one was cancelled.

        A cancelled run charged nothing, so that no output can have had a say in the terms that follow it.
        """
        found = self.file.of_kind("terms")
        if not found or all(run.status == "cancelled" for run in self.runs()):
            return None
        return Terms.from_dict(found[-1].content)

    def entries(self) -> list[Entry]:
        """Every entry, oldest first."""
        return self.file.entries()

    def export(self) -> Iterator[str]:
        """Every entry as one line `{"content":…,"hash":…}`; `hash` is the SHA-256 of the hash before (64
        zeros at first) and the text of `content`, as it stands in the line.
        """
        return (
            canonical_json({"content": entry.content, "hash": entry.hash}) for entry in self.file.entries()
        )

    def runs(self) -> list[Run]:
        """Every run, in the order of reservation."""
        return [read_run(self.file, entry) for entry in self._reserved().values()]

    def spent(self) -> Spent:
        """What all runs come to: settled runs at what they charged, open runs at their limit.

        A run whose end was chosen counts what `spending.cost_when_stopped` says.
        """
        terms = self.terms
        if terms is None:
            return Spent(epsilon=0.0, delta=0.0, rule="none")
        return total([run.cost for run in self.runs()], terms)

    def has_run(self, run_id: str) -> bool:
        """Whether `run_id` was reserved and not cancelled, so that `resume` takes it."""
        entry = self._reserved().get(run_id)
        return entry is not None and read_run(self.file, entry).status != "cancelled"

    def reserve(self, plan: Plannable, *, run_id: str | None = None) -> Reservation:
        """Writes the whole cost of `plan` before anything is released.

        `run_id`: a name that the caller stored before, random if not given. Raises `LedgerError` if the
        plan's unit, adjacency or cap differ from the ledger's, or its delta is not below 1 / population,
        `BudgetError` if the total would pass the cap; then nothing was written.
        """
        budget, record, queries = plan.budget, plan.record, plan.queries
        if budget is None or record is None:
            raise GuaranteeError("a plan that is not private has nothing to reserve")
        terms = self.terms or Terms.first(budget, record, queries)
        curve = CostCurve(record, budget.delta, terms, queries)
        planned = curve.certified(record.steps)
        run_id = run_id or secrets.token_hex(8)
        with self.file.transaction():
            terms.require(budget, self.path)
            (self.terms or terms).require(budget, self.path)
            (self.terms or terms).require_delta(record.population, self.path)
            self._require_same_order(terms)
            if self.terms is None and terms.cap != budget.cap:  # those of a run that was cancelled just now
                raise LedgerError(
                    f"another process ended in the ledger {self.path} just now", hint="run again"
                )
            if self.has_run(run_id):
                raise LedgerError(f"run {run_id} is in the ledger {self.path} already", hint="resume it")
            self._require_room([*(run.cost for run in self.runs()), planned], terms)
            room = self.room_for(run_id, budget.epsilon, terms)
            limit, cost = first_limit(curve, planned, record.steps, room)
            if self.terms is None:
                self.file.append("terms", "", at=utc_now(), **terms.to_dict())
            self.file.append(
                "reserve",
                run_id,
                at=utc_now(),
                count=0,
                limit=limit,
                fingerprint=plan.fingerprint,
                budget=budget.to_dict(),
                mechanism=record.to_dict(),
                cost=cost.to_dict(),
                **({"queries": [query.to_dict() for query in queries]} if queries else {}),
            )
        return self.resume(run_id)

    def require_room(self, plan: Plannable) -> None:
        """Raises what `reserve` would for a new run of `plan`, and writes nothing."""
        budget, record, terms = plan.budget, plan.record, self.terms
        if budget is None or record is None or terms is None:
            return
        terms.require(budget, self.path)
        self.require_delta(plan)
        curve = CostCurve(record, budget.delta, terms, plan.queries)
        others = [run.cost for run in self.runs()]
        if not within_cap([*others, curve.coarse(record.steps)], terms):  # which takes no second
            self._require_room([*others, curve.certified(record.steps)], terms)

    def require_delta(self, plan: Plannable) -> None:
        """Raises `LedgerError` where the cap's delta is not below 1 / population of `plan`."""
        if plan.record is not None and self.terms is not None:
            self.terms.require_delta(plan.record.population, self.path)

    def resume(self, run_id: str) -> Reservation:
        """The run `run_id`, to charge from a new lane; a settled one can be certified but not charged.

        Raises `LedgerError` if it is unknown or cancelled.
        """
        run = self.run(run_id)
        if run.status == "cancelled":
            raise LedgerError(f"run {run_id} was cancelled in {self.path}", hint="start a new run")
        return Reservation(self, run)

    def run(self, run_id: str) -> Run:
        """Where `run_id` stands. Raises `LedgerError` if the ledger does not know it."""
        entry = self._reserved().get(run_id)
        if entry is None:
            raise LedgerError(f"run {run_id} is not in the ledger {self.path}")
        return read_run(self.file, entry)

    def settle(self, run: str, *, unseen: bool = False, stopped_elsewhere: bool = False) -> Run:
        """Closes an open run for good; `run` may be the beginning of its name.

        unseen, stopped_elsewhere: see `ending.settle`. Raises `LedgerError` if it is unknown, charged
        nothing, is at work, or may be.
        """
        return ending.settle(self, run, unseen=unseen, stopped_elsewhere=stopped_elsewhere)

    def abandon(self, run: str, *, unseen: bool = False, stopped_elsewhere: bool = False) -> Run:
        """Gives an open run up for good; raises what `settle` does, but takes one that charged nothing."""
        return ending.abandon(self, run, unseen=unseen, stopped_elsewhere=stopped_elsewhere)

    def refuse_given_up(self, run_id: str, *, complete: bool) -> None:
        """Raises `RunClosed` for a run that someone settled or abandoned before it was `complete`."""
        ending.refuse_given_up(self, run_id, complete=complete)

    def _reserved(self) -> dict[str, Entry]:
        """The newest reservation of each run; one that was cancelled may be reserved again."""
        return {entry.run: entry for entry in self.file.of_kind("reserve")}

    def room_for(self, run_id: str, epsilon: float, terms: Terms) -> Room:
        """What a run of this budget may cost, given what all other runs count."""
        return Room(epsilon, [run.cost for run in self.runs() if run.run_id != run_id], terms)

    def cost_of_charged(self, run: Run) -> Cost:
        """Certified cost of all that a run charged: its queries as often as asked, and its steps."""
        terms = self.terms
        assert terms is not None
        if run.steps_charged == run.limit and run.charged_queries == run.reserved_queries:
            return run.reserved_cost
        curve = CostCurve(run.record, run.cost.delta, terms, run.charged_queries)
        return curve.certified(run.steps_charged)

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
        above = (
            f"to {rounded_up_text(wanted.epsilon)}, above its cap of {cap.epsilon:g} (delta {cap.delta:g})"
        )
        runs = self.runs()
        hint = what_is_left(cap.epsilon - spent.epsilon, runs, terms, self.path)
        if math.isinf(wanted.epsilon):  # no filter for these mechanisms, and no room for another delta
            above = f"and the sum of its runs' deltas above what its cap of delta {cap.delta:g} has for them"
            hint = (
                f"no smaller budget.epsilon helps: the cap's delta of {cap.delta:g}, which the first run "
                f"fixed, has no room for another {costs[-1].delta:g}"
            )
            held = held_by_open_runs(runs, terms, self.path)
            hint += f"; {held}" if held else ""
        raise BudgetError(
            f"this run would bring the ledger {self.path} from epsilon "
            f"{rounded_up_text(spent.epsilon)} {above}",
            hint=hint,
        )
