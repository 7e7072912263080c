"""One run's account in a ledger: lanes, charges, and its end.

Guarantee: `charge` writes a durable row and only then makes the receipt; an older lane, a repeated lane, a
step that does not rise within its lane, or a charge beyond the limit gets none. Imports the standard
library, and the accountant for epsilon. Source: fencing by lanes, and the pay-then-noise rule of the design.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from dp_diffusers.errors import BudgetExhausted, GuaranteeError, LedgerError
from dp_diffusers.privacy.events import GaussianMechanism
from dp_diffusers.privacy.ledger_file import Entry, utc_now
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.privacy.spending import Cost

if TYPE_CHECKING:
    from dp_diffusers.privacy.calibration import PrefixTable
    from dp_diffusers.privacy.ledger import Ledger

LANE_BYTES: Final = 16


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where one run stands: `status` is open, settled or cancelled; `cost` counts an open run's limit.

    `reserved_cost` is the cost of `limit` steps, whatever the status.
    """

    run_id: str
    plan_fingerprint: str
    record: GaussianMechanism
    limit: int
    steps_charged: int
    status: str
    cost: Cost
    reserved_cost: Cost


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

    @property
    def run_id(self) -> str:
        """Name of the run in the ledger; `Ledger.resume` takes it."""
        return self._run.run_id

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
        """The most steps that may be charged, redone ones included; at least the planned steps."""
        return self._run.limit

    @property
    def steps_charged(self) -> int:
        """Steps charged so far, redone ones included."""
        count: int = self._last().content["count"]
        return count

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
        whole = replace(self.record, steps=self.limit)
        return prefix_table(whole, cost.delta, terms.adjacency, cost.epsilon)

    def open_lane(self, keys: LaneKeys) -> None:
        """Records the lane of this process's keys; lanes opened before are void from here on.

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
            self._file.append("lane", self.run_id, at=utc_now(), count=last.content["count"], **fields)
        self._lane = bytes(lane)

    def charge(self, step: int) -> Receipt:
        """Pays for one release of `step`; the receipt exists only after the row is on disk.

        Raises `BudgetExhausted` at the limit and for a settled run, `LedgerError` if another process opened
        a newer lane, `GuaranteeError` without a lane or if `step` does not rise within the lane.
        """
        with self._file.transaction():
            last = self._not_cancelled()
            if last.kind == "settle":
                raise BudgetExhausted(f"run {self.run_id} is settled: it charges no more steps")
            lane = self._require_newest(last.content)
            if not step > last.content["step"]:
                raise GuaranteeError(f"step {step} after step {last.content['step']} would repeat its noise")
            if last.content["count"] >= self.limit:
                raise self._exhausted()
            count = last.content["count"] + 1
            self._file.append("charge", self.run_id, lane=lane.hex(), step=int(step), count=count)
        return Receipt(step=int(step), lane=lane, plan_fingerprint=self.plan_fingerprint)

    def settle(self) -> int:
        """Closes the run at what it charged, which releases the rest, and returns that number of steps.

        A settled run stays as it is. Raises `LedgerError` while another process charges it.
        """
        last = self._not_cancelled()
        charged: int = last.content["count"]
        if last.kind == "settle":
            return charged
        cost = self.ledger.cost_of(self._run, charged).to_dict()
        with self._file.transaction():
            if self._not_cancelled().hash != last.hash:
                raise LedgerError(f"run {self.run_id} is being charged by another process")
            self._file.append("settle", self.run_id, at=utc_now(), count=charged, cost=cost)
        return charged

    def cancel(self) -> None:
        """Closes a run that charged nothing. Raises `GuaranteeError` if it did: use `settle`."""
        with self._file.transaction():
            last = self._not_cancelled()
            if last.content["count"] or last.kind == "settle":
                raise GuaranteeError(f"run {self.run_id} was charged and cannot be cancelled")
            cost = Cost.nothing(self._run.cost.delta).to_dict()
            self._file.append("cancel", self.run_id, at=utc_now(), count=0, cost=cost)

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

    def _require_newest(self, last: Mapping[str, object]) -> bytes:
        if self._lane is None:
            raise GuaranteeError("charge before open_lane: the ledger does not know these keys")
        if last.get("lane") != self._lane.hex():
            raise LedgerError(
                f"run {self.run_id} was taken over by another process",
                hint="only the process that opened the run last may charge it",
            )
        return self._lane

    def _exhausted(self) -> BudgetExhausted:
        return BudgetExhausted(
            f"run {self.run_id} has charged {self.limit} steps, all that its budget and the cap carry",
            hint="the remaining steps are given up; the certificate says how many were charged",
        )
