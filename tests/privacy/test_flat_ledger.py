"""A charge costs the same after ten entries as after thousands, counted in steps of SQLite's machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.ledger_file import Entry, LedgerFile
from dp_diffusers.privacy.reservation import Reservation


def work_of(account: Reservation, call: Callable[[], object]) -> int:
    """Instructions that SQLite runs during a call."""
    count = 0

    def counted() -> int:
        nonlocal count
        count += 1
        return 0

    connection = account.ledger.file._connection
    connection.set_progress_handler(counted, 1)
    call()
    connection.set_progress_handler(None, 1)
    return count


@lru_cache(maxsize=1)
def plan() -> Plan:
    return Plan.calibrate(Budget(8.0, 1e-5), DPSGD(steps=1100, expected_units=10, population=10_000))


def work_after(charges: int) -> dict[str, int]:
    """What the calls of a step cost after so many charges."""
    ledger = Ledger.open(":memory:")
    account, keys = ledger.reserve(plan()), RunKeys.for_tests(0)
    account.open_lane(keys)
    with ledger.file.transaction():
        for step in range(charges):
            fields = {"lane": keys.lane.hex(), "step": step, "count": step + 1}
            account._newest = ledger.file.append("charge", account.run_id, **fields).hash
    calls: dict[str, Callable[[], object]] = {
        "affordable": account.require_affordable,
        "charge": lambda: account.charge(charges),
        "progress": lambda: account.steps_charged,
    }
    return {name: work_of(account, call) for name, call in calls.items()}


def is_flat() -> bool:
    few, many = work_after(10), work_after(1000)
    return all(many[name] <= 1.2 * few[name] + 20 for name in few)


@pytest.mark.slow
def test_a_step_costs_the_same_however_many_were_charged() -> None:
    assert is_flat()


@pytest.mark.slow
@pytest.mark.planted
def test_planted_search_through_all_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = LedgerFile._rows

    def searched(self: LedgerFile, clause: str, *values: object) -> list[Entry]:
        return rows(self, clause.replace("INDEXED BY by_kind", "INDEXED BY by_run"), *values)

    monkeypatch.setattr(LedgerFile, "_rows", searched)
    assert not is_flat()
