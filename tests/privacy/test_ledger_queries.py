"""Side queries in the ledger: paid before they are drawn, paid again when lost, composed with the steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_diffusers.errors import BudgetError, BudgetExhausted, GuaranteeError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import limits
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import HistogramQuery, TeacherQuery
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.reservation import Reservation

NOISE = 6.0
SIZES = {"steps": 12, "expected_units": 500, "population": 1000}


@pytest.fixture(scope="module")
def asking() -> Plan:
    """Epsilon 2 with a histogram that is dear, so that asking again is felt."""
    query = HistogramQuery(classes=3, noise_multiplier=NOISE)
    return Plan.calibrate(Budget(2.0, 1e-4, cap={"epsilon": 2.5, "delta": 1e-4}), DPSGD(**SIZES), [query])


@pytest.fixture(scope="module")
def dear() -> Plan:
    """A histogram that leaves little when it is asked again."""
    query = HistogramQuery(classes=3, noise_multiplier=3.0)
    return Plan.calibrate(Budget(2.0, 1e-4, cap=None), DPSGD(**SIZES), [query])


def oracle(plan: Plan, steps: int, asked: int) -> float:
    """Epsilon by dp_accounting alone, from the mechanisms' numbers."""
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    (noise,) = (query.noise_multiplier for query in plan.queries)
    gaussian = dp_accounting.GaussianDpEvent(plan.noise_multiplier)
    step = dp_accounting.PoissonSampledDpEvent(plan.sampling_probability, gaussian)
    for event, count in ((step, steps), (dp_accounting.GaussianDpEvent(noise), asked)):
        if count:
            accountant.compose(dp_accounting.SelfComposedDpEvent(event, count))
    return float(accountant.get_epsilon(1e-4))


def test_guarantee_a_query_is_paid_once_and_composed_with_the_steps(ledger, asking, new_keys) -> None:
    account = ledger.reserve(asking)
    assert ledger.spent().epsilon == pytest.approx(asking.epsilon, rel=0.01)
    limit = account.limit
    account.open_lane(new_keys())
    account.charge_query("histogram")
    assert account.limit == limit, "what was planned costs no steps"
    assert account.epsilon() == pytest.approx(oracle(asking, 0, 1), rel=0.02)
    for step in range(12):
        account.charge(step)
    account.settle(unseen=True)
    expected = oracle(asking, 12, 1)
    assert ledger.spent().epsilon == pytest.approx(expected, rel=0.01)
    assert [record.name for record in account.charged] == ["histogram", "dpsgd"]
    assert [record.steps for record in account.charged] == [1, 12]


def test_guarantee_a_lost_result_is_paid_again_and_lowers_the_limit(ledger, asking, new_keys) -> None:
    account = ledger.reserve(asking)
    first = account.limit
    for again in (1, 2):
        account.open_lane(new_keys())
        account.charge_query("histogram")
        assert ledger.run(account.run_id).asked == {"histogram": again}
        assert oracle(asking, account.limit, again) <= 2.0
    assert account.limit < first
    assert oracle(asking, account.limit + 1, 2) > 2.0 * 0.99, "no more is given up than the query costs"
    assert account.limit < asking.steps, "fewer steps than planned are left"
    for step in range(account.limit):
        account.charge(step)
    with pytest.raises(BudgetExhausted):
        account.charge(account.limit)
    assert ledger.spent().epsilon <= 2.0


@pytest.mark.planted
def test_planted_queries_asked_again_for_free(ledger, asking, new_keys, monkeypatch) -> None:
    monkeypatch.setattr(Reservation, "_with_queries", lambda self, run, asked: (run.limit, run.reserved_cost))
    account = ledger.reserve(asking)
    for _ in range(2):
        account.open_lane(new_keys())
        account.charge_query("histogram")
    assert oracle(asking, account.limit, 2) > 2.0, "the planted defect must be visible"


def ask_until_refused(account: Reservation, lanes: Callable[[], Any], heads: list[str]) -> None:
    """Asks from new lanes; `heads` gets the ledger's head before each query that was paid."""
    while True:
        account.open_lane(lanes())
        head = account.ledger.head
        account.charge_query("histogram")
        heads.append(head)


def test_a_query_that_would_leave_no_step_is_refused_and_writes_nothing(ledger, dear, new_keys) -> None:
    account, heads = ledger.reserve(dear), list[str]()
    with pytest.raises(BudgetError, match="no step would be left") as caught:
        ask_until_refused(account, new_keys, heads)
    assert caught.value.exit_code == 3
    assert "abandon" in str(caught.value.hint)
    assert ledger.entries()[-1].kind == "lane"
    assert ledger.run(account.run_id).asked == {"histogram": len(heads)}
    assert account.limit >= 1
    assert oracle(dear, account.limit, len(heads)) <= 2.0 < oracle(dear, 1, len(heads) + 1)


def test_guarantee_receipts_of_queries_and_steps_do_not_open_each_other(ledger, asking, new_keys) -> None:
    account, keys = ledger.reserve(asking), new_keys()
    account.open_lane(keys)
    query = account.charge_query("histogram")
    with pytest.raises(GuaranteeError, match="another mechanism"):
        query.redeem(0, keys.lane, asking.fingerprint)
    with pytest.raises(GuaranteeError, match="before"):
        query.redeem(0, keys.lane, asking.fingerprint, "histogram")
    with pytest.raises(GuaranteeError, match="another mechanism"):
        account.charge(0).redeem(0, keys.lane, asking.fingerprint, "histogram")


def test_guarantee_a_lane_asks_a_query_once(ledger, asking, plan, new_keys) -> None:
    account, keys = ledger.reserve(asking), new_keys()
    with pytest.raises(GuaranteeError, match="open_lane"):
        account.charge_query("histogram")
    account.open_lane(keys)
    account.charge_query("histogram")
    with pytest.raises(GuaranteeError, match="repeat"):
        account.charge_query("histogram")
    assert account.has_paid("histogram", keys.lane.hex())
    with pytest.raises(GuaranteeError, match="no side query"):
        account.charge_query("mean")


def test_a_run_that_only_asked_counts_its_query_and_is_not_cancelled(ledger, asking, new_keys) -> None:
    account = ledger.reserve(asking)
    account.open_lane(new_keys())
    account.charge_query("histogram")
    with pytest.raises(GuaranteeError, match="cannot be cancelled"):
        account.cancel()
    account.settle(unseen=True)
    assert ledger.spent().epsilon == pytest.approx(oracle(asking, 0, 1), rel=0.01)


def test_an_older_process_sees_the_limit_that_a_newer_one_lowered(ledger, asking, new_keys) -> None:
    account = ledger.reserve(asking)
    stale = ledger.resume(account.run_id)
    for _ in range(2):
        account.open_lane(new_keys())
        account.charge_query("histogram")
    stale.open_lane(new_keys())
    assert stale.limit == account.limit < asking.steps


def test_ledgers_from_before_queries_are_read(ledger, plan, new_keys) -> None:
    """Entries as earlier versions wrote them: no queries, no folder of a lane, one cost of a settled run."""
    account = ledger.reserve(plan, run_id="old")
    account.open_lane(new_keys())
    account.charge(0)
    (reserve,) = ledger.file.of_kind("reserve")
    assert "queries" not in reserve.content, "a plan without queries is written as before"
    cost = {"epsilon": 0.5, "delta": 1e-4, "epsilon_at_cap": 0.5, "renyi": 0.01}
    with ledger.file.transaction():
        ledger.file.append("settle", "old", at="2026-01-01T00:00:00+00:00", count=1, cost=cost)
    run = ledger.run("old")
    assert (run.status, run.cost.epsilon, run.queries, run.charged_cost) == ("settled", 0.5, (), None)
    assert ledger.spent().epsilon == 0.5
    assert ledger.resume("old").settle() == 1


class Truth:
    """What was really released, beside the ledger: queries and steps of every lane."""

    def __init__(self, account: Reservation, lanes: Callable[[], Any]) -> None:
        self.account, self.lanes = account, lanes
        self.asked = self.steps = 0
        self.step = 0

    def do(self, action: str) -> None:
        """One thing that happens to a run; what it refuses is not released."""
        with contextlib.suppress(BudgetError):
            getattr(self, f"_{action}")()

    def _restart(self) -> None:
        self.account.open_lane(self.lanes())
        self.step = 0

    def _ask(self) -> None:
        self._restart()
        self.account.charge_query("histogram")
        self.asked += 1

    def _killed_while_asking(self) -> None:
        self._restart()
        self.account.charge_query("histogram")

    def _step(self) -> None:
        self.account.charge(self.step)
        self.step += 1
        self.steps += 1

    def _killed_in_a_step(self) -> None:
        self.account.charge(self.step)
        self._restart()


ACTIONS = ("restart", "ask", "killed_while_asking", "step", "step", "step", "killed_in_a_step")


FIXED = ["ask", "step", "killed_in_a_step", "killed_while_asking", "step", "step", "ask", "step"]


def covered(plan: Plan, lanes: Callable[[], Any], actions: list[str]) -> bool:
    """Whether the ledger counts at least what was released, and never more than the budget."""
    with Ledger.open(":memory:") as ledger:
        truth = Truth(ledger.reserve(plan), lanes)
        for action in ("restart", *actions):
            truth.do(action)
        counted = [ledger.spent().epsilon]
        if truth.account.charged:
            truth.account.settle()
            counted.append(ledger.spent().epsilon)
        released = oracle(plan, truth.steps, truth.asked)
        return all(released * 0.999 <= epsilon <= 2.0 for epsilon in counted)


def test_guarantee_kills_and_redone_work_stay_covered_and_within_the_budget(asking, new_keys) -> None:
    assert covered(asking, new_keys, FIXED)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=24))
def test_guarantee_any_sequence_stays_covered_and_within_the_budget(asking, new_keys, actions) -> None:
    assert covered(asking, new_keys, actions)


def test_the_limit_never_rises_when_another_run_has_left_room(ledger, asking, new_keys) -> None:
    run = ledger.run(ledger.reserve(asking).run_id)
    room = limits.Room(100.0, [], ledger.terms)
    assert limits.limit_after(run, {"histogram": 2}, room, ledger.terms)[0] == run.limit


LATE = TeacherQuery(classes=3, dimensions=16, noise_multiplier=NOISE)


@pytest.fixture(scope="module")
def two() -> Plan:
    """A histogram before the steps and a teacher after them."""
    queries = [HistogramQuery(classes=3, noise_multiplier=NOISE), LATE]
    return Plan.calibrate(Budget(2.0, 1e-4, cap={"epsilon": 2.5, "delta": 1e-4}), DPSGD(**SIZES), queries)


def charged_to_its_limit(account: Reservation) -> None:
    """All steps that it may charge."""
    for step in range(account.limit):
        account.charge(step)


def test_guarantee_a_reserved_query_is_paid_for_after_the_steps_whatever_was_redone(
    ledger, two, new_keys
) -> None:
    account = ledger.reserve(two)
    for _ in range(2):
        account.open_lane(new_keys())
        account.charge_query("histogram")
    charged_to_its_limit(account)
    assert not account.has_lost("teacher"), "nobody has asked it"
    account.charge_query("teacher")
    assert not ledger.run(account.run_id).is_early
    assert ledger.cost_of_charged(ledger.run(account.run_id)).epsilon <= 2.0


def test_a_query_that_the_steps_left_no_room_for_again_is_lost(ledger, two, new_keys) -> None:
    account = ledger.reserve(two)
    account.open_lane(new_keys())
    account.charge_query("histogram")
    charged_to_its_limit(account)
    account.charge_query("teacher")
    account.open_lane(new_keys())
    assert account.has_lost("teacher")
    with pytest.raises(BudgetError, match="cannot pay for teacher again: there is no room for it"):
        account.charge_query("teacher")
    account.settle()
    assert account.has_lost("teacher"), "also once the run is closed"


@pytest.mark.slow
def test_a_query_that_is_cheap_may_be_asked_again_after_the_last_step(ledger, new_keys) -> None:
    cheap = TeacherQuery(classes=3, dimensions=16, noise_multiplier=500.0)
    plan = Plan.calibrate(Budget(2.0, 1e-4, cap={"epsilon": 2.5, "delta": 1e-4}), DPSGD(**SIZES), [cheap])
    account = ledger.reserve(plan)
    account.open_lane(new_keys())
    for step in range(SIZES["steps"]):
        account.charge(step)
    account.charge_query("teacher")
    account.open_lane(new_keys())
    assert not account.has_lost("teacher")
    account.charge_query("teacher")
    assert ledger.cost_of_charged(ledger.run(account.run_id)).epsilon <= 2.0
