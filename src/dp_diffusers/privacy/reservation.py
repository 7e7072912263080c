"""One run's account in a ledger: lanes, charges, and its end.

Guarantee: `charge` and `charge_query` write a durable row and only then make the receipt; an older lane, a
repeated lane, a step that does not rise within its lane, a query asked twice in one, or a charge beyond the
limit gets none. Imports the standard library, and the accountant for epsilon. Source: fencing by lanes, and
the pay-then-noise rule of the design.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from dp_diffusers.errors import BudgetError, BudgetExhausted, GuaranteeError, LedgerError, RunClosed
from dp_diffusers.privacy.events import GaussianMechanism, Record
from dp_diffusers.privacy.ledger_file import Entry, utc_now
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.privacy.runs import Run, reserved
from dp_diffusers.privacy.spending import Cost, cost_when_stopped

if TYPE_CHECKING:
    from dp_diffusers.privacy.calibration import PrefixTable
    from dp_diffusers.privacy.ledger import Ledger

LANE_BYTES: Final = 16


class LaneKeys(Protocol):
    """What the ledger needs of a process's keys."""

    @property
    def lane(self) -> bytes:
        """16 random bytes that name them."""

    @property
    def not_private(self) -> bool:
        """Whether they are test keys."""


class Reservation:
    """Made by `Ledger.reserve` and `Ledger.resume`. Open a lane, charge each step, settle at the end."""

    def __init__(self, ledger: Ledger, run: Run) -> None:
        self.ledger = ledger
        self._file = ledger.file
        self._run = run
        self._lane: bytes | None = None
        self._newest: str | None = None

    @property
    def run_id(self) -> str:
        """Name of the run in the ledger; `Ledger.resume` takes it."""
        return self._run.run_id

    @property
    def newest(self) -> str:
        """Hash of the newest entry that this process wrote, whatever the file says since; else its head."""
        return self._newest or self.ledger.head

    @property
    def plan_fingerprint(self) -> str:
        """The plan that was reserved."""
        return self._run.plan_fingerprint

    @property
    def record(self) -> GaussianMechanism:
        """The mechanism that was reserved, with all planned steps."""
        return self._run.record

    @property
    def limit(self) -> int:
        """The most steps that may be charged, redone ones included.

        At least the planned steps, unless a side query had to be asked again.
        """
        return self._run.limit

    @property
    def steps_charged(self) -> int:
        """Steps charged so far, redone ones included."""
        count: int = self._last().content["count"]
        return count

    @property
    def charged(self) -> tuple[Record, ...]:
        """Records of everything charged so far: side queries as often as they were asked, then the steps."""
        return self.ledger.run(self.run_id).charged

    def has_paid(self, query: str, lane: str) -> bool:
        """Whether this side query was charged in `lane` (in hexadecimal)."""
        entries = self._file.of_kind("query")
        return any(
            (entry.run, entry.content["name"], entry.content["lane"]) == (self.run_id, query, lane)
            for entry in entries
        )

    @property
    def not_private(self) -> bool:
        """Whether any lane of the run used test keys; whatever it releases is then not private."""
        lanes = self._file.of_kind("lane")
        return any(entry.run == self.run_id and entry.content["not_private"] for entry in lanes)

    def epsilon(self) -> float:
        """Epsilon of what was charged so far, rounded up to one of about 50 known prefixes."""
        return self._prefixes.after(self.steps_charged)

    @cached_property
    def _prefixes(self) -> PrefixTable:
        from dp_diffusers.privacy.calibration import prefix_table

        cost, terms = self._run.reserved_cost, self.ledger.terms
        assert terms is not None
        queries = self._run.reserved_queries
        whole = self.record.with_steps(self.limit)
        return prefix_table(whole, cost.delta, terms.adjacency, cost.epsilon, queries=queries)

    def open_lane(self, keys: LaneKeys, *, folder: str | None = None) -> None:
        """Records the lane of this process's keys; lanes opened before are void from here on.

        `folder`: the run folder that this process works in, so that nobody gives the run up meanwhile.
        Test keys make all that the run releases not private. A settled run records nothing: it cannot be
        charged any more. Raises `LedgerError` if any run ever used the lane (its noise would repeat) or the
        run is cancelled.
        """
        lane = keys.lane
        if len(lane) != LANE_BYTES:
            raise GuaranteeError(f"expected a lane of {LANE_BYTES} bytes, got {len(lane)}")
        with self._file.transaction():
            last = self._not_cancelled()
            if last.kind == "settle":
                return
            self._refuse_known(lane)
            fields = {"lane": lane.hex(), "not_private": bool(keys.not_private), "step": -1}
            fields |= {} if folder is None else {"folder": folder}
            count = last.content["count"]
            opened = self._file.append("lane", self.run_id, at=utc_now(), count=count, **fields)
            self._read_again()  # an older lane may have asked a query again and lowered the limit
        self._lane, self._newest = bytes(lane), opened.hash

    def require_affordable(self) -> None:
        """Raises, before the work of a step, what `charge` would after it.

        `LedgerError` first, if another process opened a newer lane, even where that one has finished: nobody
        may take its end for his own. Then `BudgetExhausted` at the limit.
        """
        last = self._not_cancelled()
        newest = self._file.last_of_run(self.run_id, "lane")
        if self._lane is not None and newest is not None and newest.content["lane"] != self._lane.hex():
            raise self._taken_over()
        if last.content["count"] >= self.limit:
            raise self._exhausted()

    def charge(self, step: int) -> Receipt:
        """Pays for one release of `step`; the receipt exists only after the row is on disk.

        Raises `BudgetExhausted` at the limit, `RunClosed` for a settled run, `LedgerError` if another process
        opened a newer lane, `GuaranteeError` without a lane or if `step` does not rise within the lane, and
        `TypeError` for a step that is no whole number.
        """
        step = operator.index(step)
        with self._file.transaction():
            last = self._open()
            lane = self._require_newest(last)
            if not step > last.content["step"]:
                raise GuaranteeError(f"step {step} after step {last.content['step']} would repeat its noise")
            if last.content["count"] >= self.limit:
                raise self._exhausted()
            count = last.content["count"] + 1
            charged = self._file.append("charge", self.run_id, lane=lane.hex(), step=step, count=count)
        self._newest = charged.hash
        return Receipt(step=step, lane=lane, plan_fingerprint=self.plan_fingerprint)

    def charge_query(self, name: str) -> Receipt:
        """Pays for one release of the side query `name`; its receipt opens that query alone.

        A query whose result was lost is paid for again, from a new lane, and fewer steps are left. Raises
        `BudgetError` where none would be, or where all are done and there is no room; `GuaranteeError` for a
        query that was not planned or that this lane has asked; and what `charge` raises.
        """
        if name not in [query.name for query in self._run.queries]:
            raise GuaranteeError(f"the plan of run {self.run_id} has no side query {name!r}")
        with self._file.transaction():
            last = self._open()
            lane = self._require_newest(last)
            if self.has_paid(name, lane.hex()):
                raise GuaranteeError(f"the query {name} was asked in this lane: its noise would repeat")
            run = self.ledger.run(self.run_id)
            asked = {**run.asked, name: run.asked.get(name, 0) + 1}
            limit, cost = self._with_queries(run, asked)
            kept = {field: last.content[field] for field in ("count", "step")}
            fields = {"name": name, "asked": asked, "limit": limit, "cost": cost.to_dict()}
            asking = self._file.append("query", self.run_id, lane=lane.hex(), **kept, **fields)
        self._newest = asking.hash
        self._read_again()
        return Receipt(step=0, lane=lane, plan_fingerprint=self.plan_fingerprint, mechanism=name)

    def was_asked(self, query: str) -> bool:
        """Whether this side query was ever charged."""
        return self.ledger.run(self.run_id).asked.get(query, 0) > 0

    def require_open(self) -> None:
        """Raises, before the work for a charge, `RunClosed` for a settled run, `LedgerError` for a cancelled
        one."""
        self._open()

    def has_lost(self, name: str) -> bool:
        """Whether the side query `name` was charged, and cannot be once more: its answer is there, or lost.

        False for one that was never charged.
        """
        run = self.ledger.run(self.run_id)
        count = run.asked.get(name, 0)
        if not count or run.status != "open":
            return bool(count)
        try:
            self._with_queries(run, {**run.asked, name: count + 1})
        except BudgetError:
            return True
        return False

    def _with_queries(self, run: Run, asked: Mapping[str, int]) -> tuple[int, Cost]:
        """Limit and cost of the run once its queries were asked so often."""
        if reserved(run.queries, asked) == run.reserved_queries:
            return run.limit, run.reserved_cost  # nothing that was not reserved already
        from dp_diffusers.privacy.limits import limit_after

        terms = self.ledger.terms
        assert terms is not None
        return limit_after(run, asked, self.ledger.room_for(run.run_id, run.budget_epsilon, terms), terms)

    def settle(self, *, unseen: bool = False) -> int:
        """Closes the run, which releases what it does not count, and returns its number of steps.

        At the end of its plan, or at its limit, it counts what it charged. An earlier end is taken for a
        choice that may depend on what it released: it counts what `cost_when_stopped` says and gets no
        certificate. unseen: whoever chose had seen nothing of that; then it counts what it charged, and the
        ledger keeps the statement. A settled run stays as it is. Raises `LedgerError` while another process
        charges it, and for a statement that comes after it was closed.
        """
        return self._settle(unseen=unseen)

    def give_up(self, *, abandon: bool = False, unseen: bool = False) -> None:
        """Closes the run because someone decided to; `Ledger.settle` and `Ledger.abandon` are the way in.

        abandon: never to be finished. unseen, and what it then counts: see `settle`. Raises `LedgerError`
        while another process charges it.
        """
        fields = {"given_up": True, "abandoned": abandon}
        if self.charged:
            self._settle(unseen=unseen, **fields)
        else:
            self._cancel(unseen=unseen, **fields)

    def _settle(self, *, unseen: bool, **fields: bool) -> int:
        last = self._not_cancelled()
        steps: int = last.content["count"]
        run, terms = self.ledger.run(self.run_id), self.ledger.terms
        if last.kind == "settle":
            run.refuse_late_statement(unseen=unseen)
            return steps
        if self._lane is not None:
            self._require_newest(last)
        assert terms is not None
        charged = cost = self.ledger.cost_of_charged(run)
        if run.charged and run.is_early and not unseen:
            cost = cost_when_stopped(charged, run.reserved_cost, terms)
        costs = {"cost": cost.to_dict(), "charged_cost": charged.to_dict()}
        with self._file.transaction():
            if self._not_cancelled().hash != last.hash:
                raise LedgerError(f"run {self.run_id} is being charged by another process")
            self._file.append(
                "settle", self.run_id, at=utc_now(), count=steps, **costs, unseen=unseen, **fields
            )
        return steps

    def cancel(self) -> None:
        """Closes a run that charged nothing. Raises `GuaranteeError` if it did: use `settle`."""
        self._cancel()

    def _cancel(self, **fields: bool) -> None:
        with self._file.transaction():
            last = self._not_cancelled()
            if self.charged or last.kind == "settle":
                raise GuaranteeError(f"run {self.run_id} was charged and cannot be cancelled")
            cost = Cost.nothing(self._run.cost.delta).to_dict()
            self._file.append("cancel", self.run_id, at=utc_now(), count=0, cost=cost, **fields)

    def _read_again(self) -> None:
        self._run = self.ledger.run(self.run_id)
        self.__dict__.pop("_prefixes", None)

    def _open(self) -> Entry:
        """The newest entry of the run. Raises `RunClosed` for a settled one.

        That is no exhausted budget: a loop may end at its limit, and release; it may not where it was closed.
        """
        last = self._not_cancelled()
        if last.kind == "settle":
            raise RunClosed(
                f"run {self.run_id} is settled: it charges no more steps",
                hint="someone closed it in the ledger; a new training needs another --out and reservation",
            )
        return last

    def _last(self) -> Entry:
        last = self._file.last_of_run(self.run_id)
        if last is None:
            raise LedgerError(f"run {self.run_id} is not in the ledger {self._file.path}")
        return last

    def _not_cancelled(self) -> Entry:
        """The newest entry of the run."""
        last = self._last()
        if last.kind == "cancel":
            raise LedgerError(f"run {self.run_id} was cancelled", hint="start a new run")
        return last

    def _refuse_known(self, lane: bytes) -> None:
        if any(entry.content["lane"] == lane.hex() for entry in self._file.of_kind("lane")):
            raise LedgerError(
                f"lane {lane.hex()} was used before: its noise would repeat",
                hint="start the process again, so that it draws new keys",
            )

    def _require_newest(self, last: Entry) -> bytes:
        if self._lane is None:
            raise GuaranteeError(
                "charge before open_lane: the ledger does not know these keys",
                hint="`open_lane(keys)` of this reservation comes before the first charge",
            )
        if last.content.get("lane") != self._lane.hex():
            raise self._taken_over()
        if last.hash != self._newest:
            raise LedgerError(
                f"the ledger {self._file.path} has forgotten what run {self.run_id} was charged",
                hint="it was replaced by an older copy; put back the one that the run was charged to",
            )
        return self._lane

    def _taken_over(self) -> LedgerError:
        return LedgerError(
            f"run {self.run_id} was taken over by another process",
            hint="only the process that opened the run last may charge it",
        )

    def _exhausted(self) -> BudgetExhausted:
        return BudgetExhausted(
            f"run {self.run_id} has charged {self.limit} steps, all that its budget and the cap carry",
            hint="the remaining steps are given up; the certificate says how many were charged",
        )
