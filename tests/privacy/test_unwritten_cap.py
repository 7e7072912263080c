"""A run that asks for no cap of its own comes under the one that the ledger's first run fixed."""

from __future__ import annotations

from functools import cache

import pytest

from dp_diffusers.errors import BudgetError, LedgerError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.ledger import Ledger


@cache
def planned(epsilon: float, cap: Cap | str | None = "not written") -> Plan:
    sizes = DPSGD(steps=30, expected_units=500, population=1000)
    if isinstance(cap, str):
        return Plan.calibrate(Budget(epsilon, 1e-4), sizes)
    return Plan.calibrate(Budget(epsilon, 1e-4, cap=cap), sizes)


@pytest.mark.parametrize("fixed", [Cap(3.0, 1e-4), None])
def test_a_smaller_budget_needs_no_cap(ledger, new_keys, fixed):
    ledger.reserve(planned(1.0, fixed))
    ledger.require_room(planned(0.3))
    later = ledger.reserve(planned(0.3))
    later.open_lane(new_keys())
    for step in range(30):
        later.charge(step)
    later.settle()
    assert ledger.terms is not None
    assert ledger.terms.cap == fixed
    assert ledger.spent().epsilon > 1.2


@pytest.mark.parametrize("asked", [0.3, 3.0])  # less than was spent, and a budget that would carry both
def test_guarantee_a_cap_that_is_not_written_is_no_wider_than_the_ledgers(ledger, asked):
    ledger.reserve(planned(1.0))
    before = ledger.head
    for admit in (ledger.require_room, ledger.reserve):
        with pytest.raises(BudgetError, match=r"above its cap of 1 \(delta 0.0001\)"):
            admit(planned(asked))
    assert ledger.head == before


@pytest.mark.parametrize("written", [Cap(4.0, 1e-4), Cap(3.0, 1e-5), Cap(1.0, 1e-4), None])
def test_a_cap_that_is_written_has_to_be_the_ledgers(ledger, written):
    ledger.reserve(planned(1.0, Cap(3.0, 1e-4)))
    with pytest.raises(LedgerError, match=r"cap \(epsilon 3, delta 0.0001\) there"):
        ledger.reserve(planned(1.0, written))


def test_the_next_run_learns_it_from_the_plan():
    assert "unless the first of them fixed another cap" in planned(1.0).explain()
    assert "unless" not in planned(1.0, Cap(3.0, 1e-4)).explain()


def test_a_budget_that_was_written_down_still_asks_for_none():
    budget = planned(0.3).budget
    assert budget is not None
    assert budget.asks_for_no_cap
    assert Budget.from_dict(budget.to_dict()).asks_for_no_cap
    assert not Budget(0.3, 1e-4, cap=None).asks_for_no_cap


def test_the_first_run_of_a_ledger_fixes_its_own():
    with Ledger.open(":memory:") as ledger:
        ledger.reserve(planned(1.0))
        assert ledger.terms is not None
        assert ledger.terms.cap == Cap(1.0, 1e-4)
