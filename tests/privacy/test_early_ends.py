"""Runs that end before their plan: what they count, and what may be certified of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from dp_diffusers.errors import BudgetError, GuaranteeError, LedgerError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.histogram import histogram_query
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import certified_numbers, reservation
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.reservation import Reservation

Lanes = Callable[..., Any]
FACTS = {
    "base_model": {"id": "public", "sha256": "0" * 64},
    "adapter": {"trainable_parameters": 1},
}
STOPS: dict[str, Callable[[Ledger, Reservation], object]] = {
    "ledger settle": lambda ledger, account: ledger.settle(account.run_id, stopped_elsewhere=True),
    "ledger abandon": lambda ledger, account: ledger.abandon(account.run_id, stopped_elsewhere=True),
    "a loop of one's own": lambda ledger, account: account.settle(),
}


def charged(ledger: Ledger, plan: Plan, lanes: Lanes, steps: int) -> Reservation:
    account = ledger.reserve(plan)
    account.open_lane(lanes())
    for step in range(steps):
        account.charge(step)
    return account


def draft(plan: Plan, account: Reservation) -> Certificate:
    return Certificate.draft(plan=plan, account=account, **FACTS)


def problems(certificate: Certificate, folder: Path) -> tuple[str, ...]:
    """What `verify` says of a release with this certificate."""
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    certificate.issue(folder)
    return Certificate.verify(folder).problems


@pytest.mark.parametrize("stop", STOPS.values(), ids=list(STOPS))
def test_guarantee_a_run_stopped_by_choice_is_not_certified_at_the_steps_it_charged(
    ledger, plan, new_keys, stop
) -> None:
    account = charged(ledger, plan, new_keys, 10)
    stop(ledger, account)
    run = ledger.run(account.run_id)
    assert run.cost.epsilon == run.reserved_cost.epsilon
    with pytest.raises(GuaranteeError, match="ended after 10 of 30 steps") as caught:
        draft(plan, account)
    assert "unseen" in str(caught.value.hint)


@pytest.mark.planted
def test_planted_a_certificate_that_asks_nobody_why_the_run_ended(
    ledger, plan, new_keys, monkeypatch
) -> None:
    monkeypatch.setattr(certified_numbers, "_require_no_choice", lambda run: None)
    account = charged(ledger, plan, new_keys, 10)
    ledger.settle(account.run_id, stopped_elsewhere=True)
    certified = draft(plan, account).epsilon
    assert certified is not None
    assert certified < 0.8 * ledger.run(account.run_id).cost.epsilon, "the planted defect must be visible"


def test_an_end_that_nobody_saw_is_certified_and_said(ledger, plan, new_keys, tmp_path: Path) -> None:
    account = charged(ledger, plan, new_keys, 10)
    assert account.settle(unseen=True) == 10
    assert ledger.entries()[-1].content["unseen"] is True
    certificate = draft(plan, account)
    assert certificate.epsilon == pytest.approx(
        epsilon([plan.mechanism.record(plan.noise_multiplier, 10)], 1e-4)
    )
    assert certificate.ledger["ended_unseen"] is True
    (sentence,) = [text for text in certificate.assumptions if text.startswith("Fixed beforehand")]
    assert "stated in the ledger to have seen nothing" in sentence
    assert problems(certificate, tmp_path) == ()


def test_the_statement_is_made_when_the_run_is_closed_and_not_later(ledger, plan, new_keys) -> None:
    account = charged(ledger, plan, new_keys, 10)
    account.settle()
    for later in (lambda: account.settle(unseen=True), lambda: ledger.settle(account.run_id, unseen=True)):
        with pytest.raises(LedgerError, match="closed without the statement"):
            later()
    assert account.settle() == 10


def test_a_run_at_its_planned_end_is_certified_whoever_closed_it(ledger, plan, new_keys) -> None:
    account = charged(ledger, plan, new_keys, 30)
    ledger.settle(account.run_id, stopped_elsewhere=True)
    certificate = draft(plan, account)
    assert certificate.epsilon == pytest.approx(plan.epsilon)
    assert certificate.ledger["ended_unseen"] is False
    assert not any("seen nothing" in text for text in certificate.assumptions)


def test_the_rest_may_be_charged_and_left_unused(ledger, plan, new_keys) -> None:
    """What the hint says: then the plan was run to its end, and what was not released hurts nobody."""
    account = charged(ledger, plan, new_keys, 10)
    for step in range(10, 30):
        account.charge(step)
    account.settle()
    assert draft(plan, account).epsilon == pytest.approx(plan.epsilon)


def test_a_run_at_a_limit_below_its_plan_is_not_early(ledger, new_keys, tmp_path: Path) -> None:
    budget = Budget(2.0, 1e-4)
    sizes = DPSGD(steps=30, expected_units=500, population=1000)
    asking = Plan.calibrate(budget, sizes, [histogram_query(budget, 3)])
    account = ledger.reserve(asking)
    for _ in range(2):
        account.open_lane(new_keys())
        account.charge_query("histogram")
    assert account.limit < asking.steps
    for step in range(account.limit):
        account.charge(step)
    account.settle()
    run = ledger.run(account.run_id)
    assert not run.is_early
    assert run.cost == run.charged_cost
    certificate = draft(asking, account)
    assert certificate.mechanisms[0]["steps_charged"] == account.limit
    assert problems(certificate, tmp_path) == ()


def test_guarantee_a_loop_that_stops_early_frees_no_room_for_another_run(ledger, plan, new_keys) -> None:
    account = charged(ledger, plan, new_keys, 15)
    account.settle()
    with pytest.raises(BudgetError):
        ledger.reserve(plan)
    assert ledger.entries()[-1].content["unseen"] is False


def test_a_run_that_charged_nothing_costs_nothing(ledger, plan, new_keys) -> None:
    account = charged(ledger, plan, new_keys, 0)
    account.settle()
    assert ledger.spent().epsilon == 0


# What a choice costs, by simulation. Without sampling the privacy loss after t steps is a Gaussian walk, and
# its epsilon a formula; whoever looks at it stops at the first step at which it is well above that epsilon.

STEPS, DELTA = 40, 0.05


def gaussian_epsilon(mu: float) -> float:
    """The smallest epsilon at DELTA of a Gaussian mechanism whose means are `mu` apart (Balle, Wang 2018)."""
    cdf, low, high = NormalDist().cdf, 0.0, 50.0
    for _ in range(60):
        mid = (low + high) / 2
        delta = cdf(mu / 2 - mid / mu) - math.exp(mid) * cdf(-mu / 2 - mid / mu)
        low, high = (mid, high) if delta > DELTA else (low, mid)
    return high


def delta_of_a_choice(noise_multiplier: float, claim: Callable[[int], float]) -> float:
    """The delta at which `claim(steps)` holds for a run that is stopped once its loss looks good."""
    mu = 1 / noise_multiplier
    walk = np.random.default_rng(0).normal(mu * mu / 2, mu, (60_000, STEPS)).cumsum(axis=1)
    alone = np.array([gaussian_epsilon(mu * math.sqrt(steps)) for steps in range(1, STEPS + 1)])
    good = walk > alone + 0.7 * mu * np.sqrt(np.arange(1, STEPS + 1))
    stop = np.where(good.any(axis=1), good.argmax(axis=1), STEPS - 1)
    loss = walk[np.arange(len(walk)), stop]
    claimed = np.array([claim(steps) for steps in range(1, STEPS + 1)])[stop]
    return float(np.maximum(0, 1 - np.exp(claimed - loss)).mean())


def counted_after(steps: int, lanes: Lanes) -> tuple[float, float]:
    """Noise multiplier of a plan, and what the ledger counts for it when its loop stops after `steps`."""
    plan = Plan.calibrate(Budget(1.0, DELTA), DPSGD(steps=STEPS, expected_units=10, population=10))
    with Ledger.open(":memory:") as ledger:
        account = charged(ledger, plan, lanes, steps)
        account.settle()
        return plan.noise_multiplier, ledger.spent().epsilon


def test_guarantee_what_a_stopped_run_counts_covers_the_choice(new_keys) -> None:
    noise, counted = counted_after(5, new_keys)
    assert delta_of_a_choice(noise, lambda _: counted) <= DELTA


@pytest.mark.planted
def test_planted_a_stopped_loop_counts_its_steps(new_keys, monkeypatch) -> None:
    """Each epsilon holds for a length fixed beforehand; for a chosen one delta is 1.9 times as large."""
    monkeypatch.setattr(reservation, "cost_when_stopped", lambda charged, reserved, terms: charged)
    noise, counted = counted_after(5, new_keys)
    alone = gaussian_epsilon(math.sqrt(5) / noise)
    assert counted == pytest.approx(alone, rel=0.02), "what is counted is the formula's"
    after = [gaussian_epsilon(math.sqrt(steps) / noise) for steps in range(1, STEPS + 1)]
    assert delta_of_a_choice(noise, lambda steps: after[steps - 1]) > 1.5 * DELTA
