"""Corners of the ledger that one test each keeps: early ends with queries, races, room, orders, triggers."""

from __future__ import annotations

import sqlite3
import threading

import numpy as np
import pytest

from dp_diffusers.errors import LedgerError, ParameterError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.spending import CostCurve

SIZES = {"steps": 30, "expected_units": 500, "population": 1000}


@pytest.fixture(scope="module")
def asking() -> Plan:
    query = HistogramQuery(classes=3, noise_multiplier=10.0)
    cap = {"epsilon": 9.0, "delta": 9e-4}
    return Plan.calibrate(Budget(2.0, 1e-4, cap=cap), DPSGD(**SIZES), [query])


def test_guarantee_all_steps_without_their_query_are_an_early_end(ledger, asking, new_keys):
    account = ledger.reserve(asking)
    account.open_lane(new_keys())
    for step in range(30):
        account.charge(step)
    account.settle()
    run = ledger.run(account.run_id)
    assert run.is_early
    assert run.cost.epsilon == run.reserved_cost.epsilon


def test_guarantee_an_early_end_of_a_run_with_queries_counts_all(ledger, asking, new_keys):
    account = ledger.reserve(asking)
    account.open_lane(new_keys())
    account.charge_query("histogram")
    account.charge(0)
    account.settle()
    run = ledger.run(account.run_id)
    assert run.cost.epsilon == run.reserved_cost.epsilon


def test_guarantee_a_step_charged_while_a_run_closes_is_not_forgotten(tmp_path, plan, new_keys, monkeypatch):
    path = tmp_path / "data.ledger"
    with Ledger.open(path) as mine, Ledger.open(path) as theirs:
        working = mine.reserve(plan)
        working.open_lane(new_keys())
        working.charge(0)
        closing, right = theirs.resume(working.run_id), Ledger.cost_of_charged

        def late(self, run):
            working.charge(1)
            return right(self, run)

        monkeypatch.setattr(Ledger, "cost_of_charged", late)
        with pytest.raises(LedgerError, match="charged by another process"):
            closing.settle(unseen=True)
        assert mine.run(working.run_id).status == "open"


def test_guarantee_what_another_run_paid_for_is_not_paid(ledger, asking, new_keys):
    first, second, keys = ledger.reserve(asking), ledger.reserve(asking), new_keys()
    first.open_lane(keys)
    first.charge_query("histogram")
    assert first.has_paid("histogram", keys.lane.hex())
    assert not second.has_paid("histogram", keys.lane.hex())


def test_guarantee_two_first_runs_at_once_agree_on_the_order(tmp_path, monkeypatch):
    cap = {"epsilon": 9.0, "delta": 1e-4}
    one = Plan.calibrate(Budget(0.2, 1e-4, cap=cap), DPSGD(**SIZES))
    other = Plan.calibrate(Budget(8.0, 1e-4, cap=cap), DPSGD(steps=1, expected_units=1000, population=1000))
    path, right = tmp_path / "data.ledger", CostCurve.certified
    with Ledger.open(path) as mine, Ledger.open(path) as theirs:

        def late(self, steps):
            monkeypatch.setattr(CostCurve, "certified", right)
            theirs.reserve(other)
            return right(self, steps)

        monkeypatch.setattr(CostCurve, "certified", late)
        with pytest.raises(LedgerError, match="same time"):
            mine.reserve(one)
        assert len(mine.runs()) == 1


def test_guarantee_the_limit_leaves_room_for_what_settled_runs_charged(new_keys):
    sizes = DPSGD(steps=3000, expected_units=50, population=1000)

    def plan_under(cap):
        return Plan.calibrate(Budget(1.0, 1e-5, adjacency="replace", cap=cap), sizes)

    def settled(ledger, plan):
        account = ledger.reserve(plan)
        account.open_lane(new_keys())
        account.charge(0)
        account.settle(unseen=True)
        return account

    with Ledger.open(":memory:") as ledger:
        free = plan_under(None)
        assert settled(ledger, free).limit > 3000, "the budget alone has room for steps that are redone"
        one = ledger.runs()[0].cost.epsilon
    cap = {"epsilon": one + free.epsilon + 1e-6, "delta": 2e-5}
    with Ledger.open(":memory:") as ledger:
        settled(ledger, plan_under(cap))
        assert ledger.reserve(plan_under(cap)).limit == 3000
        assert ledger.spent().epsilon <= cap["epsilon"]


def test_a_ledger_without_its_newest_trigger_is_refused(tmp_path, plan):
    path = tmp_path / "data.ledger"
    with Ledger.open(path) as ledger:
        ledger.reserve(plan)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER never_replace")
    connection.close()
    with pytest.raises(LedgerError, match="triggers were changed"):
        Ledger.open(path)


def test_guarantee_nobody_begins_a_ledger_under_the_cap_of_a_run_that_was_given_up(tmp_path, monkeypatch):
    plans = [Plan.calibrate(Budget(1.0, 1e-4, **cap), DPSGD(**SIZES)) for cap in ({"cap": None}, {})]
    path, right = tmp_path / "data.ledger", CostCurve.certified
    with Ledger.open(path) as mine, Ledger.open(path) as theirs:
        first = theirs.reserve(plans[0])

        def late(self, steps):
            monkeypatch.setattr(CostCurve, "certified", right)
            first.cancel()
            return right(self, steps)

        monkeypatch.setattr(CostCurve, "certified", late)
        with pytest.raises(LedgerError, match="ended in the ledger"):
            mine.reserve(plans[1])
        assert mine.reserve(plans[1]).limit > 0
        assert mine.terms is not None
        assert mine.terms.cap == plans[1].budget.cap


def test_a_closed_ledger_and_one_of_another_thread_are_no_damaged_ones(tmp_path, plan):
    """Who restores an older copy, as a damaged one asks for, forgets what was spent since."""
    found = []
    ledger = Ledger.open(tmp_path / "a.ledger")

    def elsewhere():
        with pytest.raises(LedgerError) as refused:
            ledger.reserve(plan)
        found.append(refused.value)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    ledger.close()
    elsewhere()
    assert len(found) == 2
    for error in found:
        assert "it was closed, or opened in another thread" in error.message
        assert "nothing was charged" in error.hint


@pytest.mark.parametrize("name", ["counts", "teacher", "pe"])
def test_guarantee_no_query_has_a_name_that_could_not_be_read_back(name):
    """What is in a ledger stays there: an entry that nobody can read would close it for good."""
    with pytest.raises(ParameterError, match="is no HistogramQuery"):
        HistogramQuery(classes=10, noise_multiplier=20.0, name=name)


@pytest.mark.parametrize(
    ("queries", "says"),
    [
        ([HistogramQuery(classes=3, noise_multiplier=20.0, steps=0)], "histogram to be asked once or more"),
        ([HistogramQuery(classes=3, noise_multiplier=20.0)] * 2, "histogram is there 2 times"),
    ],
)
def test_a_query_is_asked_and_once(queries, says):
    with pytest.raises(ParameterError, match=says):
        Plan.calibrate(Budget(1.0, 1e-4), DPSGD(steps=30, expected_units=500, population=1000), queries)


@pytest.mark.parametrize("step", [0.5, 1.0, "1"])
def test_a_step_that_is_no_whole_number_is_refused_and_not_charged(ledger, plan, new_keys, step):
    account = ledger.reserve(plan)
    account.open_lane(new_keys())
    with pytest.raises(TypeError):
        account.charge(step)
    assert account.steps_charged == 0
    account.charge(np.int64(0))
    assert account.steps_charged == 1
