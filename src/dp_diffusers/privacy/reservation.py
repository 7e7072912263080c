"""One run's account in a ledger: lanes, charges, and its end.

Guarantee: `charge` writes a durable row and only then makes the receipt; an older lane, a repeated lane, a
step that does not rise within its lane, or a charge beyond the limit gets none. Imports the standard
library only. Source: fencing tokens, after Gray and Cheriton 1989; the pay-then-noise rule of the design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dp_diffusers.errors import BudgetExhausted, GuaranteeError, LedgerError
from dp_diffusers.privacy.ledger_file import Entry, LedgerFile
from dp_diffusers.privacy.receipt import Receipt

LANE_BYTES = 16
CostOf = Callable[[str, int], Mapping[str, float]]


class Reservation:
    """Made by `Ledger.reserve` and `Ledger.resume`. Open a lane, charge each step, settle at the end."""

    def __init__(
        self, file: LedgerFile, run_id: str, plan_fingerprint: str, limit: int, cost_of: CostOf
    ) -> None:
        self._file = file
        self._run_id = run_id
        self._fingerprint = plan_fingerprint
        self._limit = limit
        self._cost_of = cost_of
        self._lane: bytes | None = None

    @property
    def run_id(self) -> str:
        """Name of the run in the ledger; `Ledger.resume` takes it."""
        return self._run_id

    @property
    def plan_fingerprint(self) -> str:
        """The plan that was reserved."""
        return self._fingerprint

    @property
    def limit(self) -> int:
        """The most steps that may be charged, redone ones included; at least the planned steps."""
        return self._limit

    @property
    def steps_charged(self) -> int:
        """Steps charged so far, redone ones included."""
        count: int = self._last().content["count"]
        return count

    @property
    def not_private(self) -> bool:
        """Whether any lane of the run used test keys; whatever it releases is then not private."""
        lanes = self._file.of_kind("lane")
        return any(entry.run == self._run_id and entry.content["not_private"] for entry in lanes)

    def open_lane(self, lane: bytes, not_private: bool = False) -> None:
        """Records the 16 random bytes of this process's keys; lanes opened before are void from here on.

        `not_private`: the keys are test keys. Raises `LedgerError` if any run ever used the lane (its noise
        would repeat) or the run is closed.
        """
        if len(lane) != LANE_BYTES:
            raise GuaranteeError(f"expected a lane of {LANE_BYTES} bytes, got {len(lane)}")
        with self._file.transaction():
            count = self._open_state().content["count"]
            if any(entry.content["lane"] == lane.hex() for entry in self._file.of_kind("lane")):
                raise LedgerError(
                    f"lane {lane.hex()} was used before: its noise would repeat",
                    hint="start the process again, so that it draws new keys",
                )
            self._file.append(
                "lane", self._run_id, lane=lane.hex(), not_private=bool(not_private), count=count, step=-1
            )
        self._lane = bytes(lane)

    def charge(self, step: int) -> Receipt:
        """Pays for one release of `step`; the receipt exists only after the row is on disk.

        Raises `BudgetExhausted` at the limit, `LedgerError` if another process opened a newer lane or the
        run is closed, `GuaranteeError` without a lane or if `step` does not rise within the lane.
        """
        lane = self._lane
        if lane is None:
            raise GuaranteeError("charge before open_lane: the ledger does not know these keys")
        with self._file.transaction():
            last = self._open_state().content
            self._require_newest(last, lane)
            if not step > last["step"]:
                raise GuaranteeError(f"step {step} after step {last['step']} would repeat its noise")
            if last["count"] >= self._limit:
                raise self._exhausted()
            count = last["count"] + 1
            self._file.append("charge", self._run_id, lane=lane.hex(), step=int(step), count=count)
        return Receipt(step=int(step), lane=lane, plan_fingerprint=self._fingerprint)

    def settle(self) -> int:
        """Closes the run at what it charged, which releases the rest, and returns that number of steps."""
        charged = self.steps_charged
        cost = self._cost_of(self._run_id, charged)
        with self._file.transaction():
            if self._open_state().content["count"] != charged:
                raise LedgerError(f"run {self._run_id} is being charged by another process")
            self._file.append("settle", self._run_id, count=charged, cost=dict(cost))
        return charged

    def cancel(self) -> None:
        """Closes a run that charged nothing. Raises `GuaranteeError` if it did: use `settle`."""
        cost = dict(self._cost_of(self._run_id, 0))
        with self._file.transaction():
            count = self._open_state().content["count"]
            if count:
                raise GuaranteeError(f"run {self._run_id} charged {count} steps and cannot be cancelled")
            self._file.append("cancel", self._run_id, count=0, cost=cost)

    def _last(self) -> Entry:
        last = self._file.last_of_run(self._run_id)
        if last is None:
            raise LedgerError(f"run {self._run_id} is not in the ledger {self._file.path}")
        return last

    def _open_state(self) -> Entry:
        """The newest entry of the run. Raises `LedgerError` once it was settled or cancelled."""
        last = self._last()
        if last.kind in ("settle", "cancel"):
            raise LedgerError(f"run {self._run_id} is closed in {self._file.path}", hint="start a new run")
        return last

    def _require_newest(self, last: Mapping[str, object], lane: bytes) -> None:
        if last.get("lane") != lane.hex():
            raise LedgerError(
                f"run {self._run_id} was taken over by another process",
                hint="only the process that opened the run last may charge it",
            )

    def _exhausted(self) -> BudgetExhausted:
        return BudgetExhausted(
            f"run {self._run_id} has charged {self._limit} steps, all that its budget and the cap carry",
            hint="the remaining steps are given up; the certificate says how many were charged",
        )
