"""The three rules by which runs add up, each against an oracle, and against someone who adapts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp

from dp_diffusers.errors import BudgetError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import accountant, spending
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.events import GaussianMechanism, HistogramQuery
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.spending import Cost, CostCurve, Terms, cost_when_stopped, total, within_cap

DELTA = 1e-5
CAP = Cap(4.0, DELTA)
STEP = GaussianMechanism(
    steps=40,
    population=1000,
    expected_units=100,
    sampling_probability=0.1,
    clip_norm=1.0,
    noise_multiplier=1.5,
)
QUERY = HistogramQuery(classes=4, noise_multiplier=8.0)
TERMS = Terms(unit="image", adjacency="add_remove", cap=CAP, order=6.0)


def cost_of(steps: int, asked: int, terms: Terms = TERMS, delta: float = DELTA) -> Cost:
    return CostCurve(STEP, delta, terms, [QUERY.with_steps(asked)]).certified(steps)


def events(steps: int, asked: int) -> list[tuple[Any, int]]:
    step = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.5))
    return [(step, steps), (dp_accounting.GaussianDpEvent(8.0), asked)]


def composed(accountant: Any, runs: Sequence[tuple[int, int]]) -> Any:
    for run in runs:
        for event, count in events(*run):
            if count:
                accountant.compose(event, count)
    return accountant


def test_one_run_is_the_privacy_loss_of_all_it_charged() -> None:
    expected = composed(pld.PLDAccountant(value_discretization_interval=1e-4), [(40, 2)]).get_epsilon(DELTA)
    spent = total([cost_of(40, 2)], TERMS)
    assert (spent.rule, spent.delta) == ("pld", DELTA)
    assert spent.epsilon == pytest.approx(expected, rel=0.005)


def rdp_of_sampled_gaussian(order: int) -> float:
    """Mironov, Talwar and Zhang 2019, equation 30, for whole orders."""
    q, sigma = 0.1, 1.5
    terms = [
        math.log(math.comb(order, k))
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    return float(np.logaddexp.reduce(terms)) / (order - 1)


def filter_oracle(runs: Sequence[tuple[int, int]], order: int, delta: float) -> float:
    """The sum of divergences at one order, turned into epsilon (Canonne et al. 2020), by hand."""
    query = order / (2 * 8.0**2)
    loss = sum(steps * rdp_of_sampled_gaussian(order) + asked * query for steps, asked in runs)
    return loss + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)


def test_several_runs_are_the_filter_at_its_order_and_half_of_delta() -> None:
    runs = [(40, 1), (25, 2), (10, 0)]
    spent = total([cost_of(*run) for run in runs], TERMS)
    assert spent.rule == "filter"
    assert spent.epsilon == pytest.approx(filter_oracle(runs, 6, DELTA / 2), rel=1e-6)
    library = composed(rdp.RdpAccountant(orders=[6.0]), runs)
    assert spent.epsilon == pytest.approx(library.get_epsilon(DELTA / 2), rel=1e-6)


def test_several_runs_are_the_sum_where_that_is_less() -> None:
    small = [cost_of(1, 0, delta=DELTA / 8), cost_of(2, 0, delta=DELTA / 8)]
    terms = replace(TERMS, order=2.0)
    spent = total(small, terms)
    each = [
        composed(pld.PLDAccountant(value_discretization_interval=1e-4), [(steps, 0)]).get_epsilon(DELTA / 8)
        for steps in (1, 2)
    ]
    assert spent.rule == "sum"
    assert spent.epsilon == pytest.approx(sum(each), rel=0.01)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_without_a_renyi_theorem_there_is_the_sum_alone(share: float) -> None:
    """If the first plan had none, the sum has all of delta; if a later one has none, its half."""
    terms = replace(TERMS, order=None) if share == 1.0 else TERMS
    fits = Cost(epsilon=1.0, delta=share * DELTA / 2, epsilon_at_cap=1.0, renyi=None)
    spent = total([fits, fits], terms)
    assert (spent.rule, spent.epsilon) == ("sum", 2.0)
    assert not within_cap([fits, fits, replace(fits, delta=1e-9)], terms), "no delta is left"


def test_a_ledger_begun_by_replacements_has_no_order() -> None:
    budget = Budget(1.0, DELTA, adjacency="replace", cap=CAP)
    assert Terms.first(budget, STEP, [QUERY]).order is None
    assert CostCurve(STEP, DELTA, Terms.first(budget, STEP), [QUERY]).certified(1).renyi is None
    assert Terms.first(Budget(1.0, DELTA, cap=CAP), STEP, [QUERY]).order is not None


SMALL = {"steps": 6, "expected_units": 500, "population": 1000}


def holds_at_the_first_order(ledger: Ledger, cap: float) -> bool:
    """Whether what the ledger admits fits the cap at the order in its first row, which no output chose."""
    plan = Plan.calibrate(Budget(0.5, 1e-4, cap={"epsilon": cap, "delta": 1e-4}), DPSGD(**SMALL))
    library = rdp.RdpAccountant(orders=[ledger_order(ledger, plan)])
    for steps in admit_until_refused(ledger, [plan]):
        library.compose(plan.event(steps))
    return bool(library.get_epsilon(0.5e-4) <= cap)


def ledger_order(ledger: Ledger, plan: Plan) -> float:
    ledger.reserve(plan).cancel()
    return float(ledger.entries()[0].content["order"])


def test_guarantee_the_filters_order_is_the_first_one(ledger) -> None:
    assert holds_at_the_first_order(ledger, 1.2)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_the_filters_order_is_chosen_after_the_fact(ledger, monkeypatch) -> None:
    plan = Plan.calibrate(Budget(0.5, 1e-4, cap={"epsilon": 4.5, "delta": 1e-4}), DPSGD(**SMALL))
    orders = [3.0, *map(float, range(4, 30))]
    losses = accountant.renyi_of_one_step(plan.record, orders)

    def best(costs: Sequence[Cost], order: float, delta: float) -> float:
        steps = sum(cost.renyi or 0.0 for cost in costs) / losses[0]
        each = zip(orders, losses, strict=True)
        return min(accountant.renyi_to_epsilon(steps * loss, order, delta) for order, loss in each)

    monkeypatch.setattr(spending, "_best_order", lambda *_: 3.0)
    monkeypatch.setattr(spending, "_filtered", best)
    assert not holds_at_the_first_order(ledger, 4.5), "the planted defect must be visible"


def admit_until_refused(ledger: Ledger, plans: Sequence[Plan], stops: Sequence[int] = (6,)) -> list[int]:
    """Runs plans in turn, the next chosen and stopped by what came before; returns the steps charged."""
    admitted: list[int] = []
    for turn in range(40):
        plan, stop = plans[turn % len(plans)], stops[turn % len(stops)]
        try:
            account = ledger.reserve(plan)
        except BudgetError:
            return admitted
        account.open_lane(plan.fresh_keys())
        for step in range(min(stop, account.limit)):
            account.charge(step)
        account.settle()
        admitted.append(min(stop, account.limit))
        spent = ledger.spent()
        assert spent.epsilon <= ledger.terms.cap.epsilon
    return admitted


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(6,), (1, 6, 2), (5, 1)])
def test_guarantee_no_adaptive_sequence_passes_the_cap(ledger, stops) -> None:
    """Plans, their order and where each stops may all depend on what was seen; what is admitted is bounded
    by the filter at the ledger's order, or by the sum of whole reservations, computed apart."""
    cap = {"epsilon": 1.2, "delta": 1e-4}
    plans = [Plan.calibrate(Budget(epsilon, 1e-4, cap=cap), DPSGD(**SMALL)) for epsilon in (0.5, 0.3)]
    admitted = admit_until_refused(ledger, plans, stops)
    order = ledger.terms.order
    losses = [accountant.renyi_of_one_step(plan.record, [order])[0] for plan in plans]
    spent = sum(losses[turn % 2] * steps for turn, steps in enumerate(admitted))
    assert accountant.renyi_to_epsilon(spent, order, 0.5e-4) <= 1.2
    assert len(admitted) >= 3


def test_what_a_stopped_run_counts() -> None:
    charged, reserved = cost_of(2, 1), cost_of(10, 1)
    stopped = cost_when_stopped(charged, reserved, TERMS)
    assert (stopped.epsilon, stopped.renyi) == (reserved.epsilon, charged.renyi)
    tight = replace(TERMS, cap=Cap(reserved.epsilon * 1.01, DELTA))
    assert cost_when_stopped(charged, reserved, tight) == reserved, "the cap is this run's alone"
    assert cost_when_stopped(charged, reserved, replace(TERMS, cap=None, order=None)) == reserved
