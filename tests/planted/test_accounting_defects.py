"""The accountant told something else than what sampler and noise do: the budget no longer holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from true_epsilon import Setting

import dp_diffusers as dpd
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.privacy import calibration
from dp_diffusers.privacy.events import GaussianMechanism
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.reservation import Reservation

BUDGET = dpd.Budget(epsilon=1.0, delta=1e-3)
Patch = Callable[[pytest.MonkeyPatch], None]


@cache
def plan_of(steps: int = 20) -> dpd.Plan:
    return dpd.Plan.calibrate(
        BUDGET, dpd.DPSGD(steps=steps, expected_units=20, population=100, clip_norm=0.5)
    )


def done_by(plan: dpd.Plan) -> Setting:
    """What sampler and box of a plan really do, read from them and not from the plan."""
    keys = RunKeys.for_tests(0)
    box: Any = plan.private_gradient([torch.nn.Parameter(torch.zeros(20_000))], keys)
    released = private_gradient.noisy(torch.zeros(20_000, dtype=torch.float64), keys, 0, box._std)
    measured = float(released.double().std())
    assert abs(measured / box._std - 1) < 5 / (2 * 20_000) ** 0.5
    return Setting(
        rate=plan.sampler(100, keys).probability,
        steps=plan.steps,
        sigma=box._std / box._sum._clip_norm / (1 + 1e-4),
        delta=BUDGET.delta,
    )


def holds(plan: dpd.Plan) -> bool:
    """The property: epsilon of what is done, by dp_accounting alone, is within the budget."""
    return done_by(plan).epsilon() <= BUDGET.epsilon * (1 + 1e-3)


def test_guarantee_the_budget_holds_for_what_sampler_and_noise_do() -> None:
    plan = plan_of()
    assert holds(plan)
    assert done_by(plan).epsilon() > 0.95 * BUDGET.epsilon, "the test must be able to tell"


def accounted(told: Callable[[GaussianMechanism], GaussianMechanism]) -> Patch:
    """Calibrates the noise for other numbers than those of the mechanism."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = calibration.calibrate_noise

        def for_others(budget: float, delta: float, record_at: Any, *rest: Any) -> Any:
            return right(budget, delta, lambda noise: told(record_at(noise)), *rest)

        patch.setattr(calibration, "calibrate_noise", for_others)

    return plant


WRONG: dict[str, Patch] = {
    "rate of a micro-batch": accounted(
        lambda record: replace(record, sampling_probability=record.sampling_probability / 4)
    ),
    "steps counted in epochs": accounted(lambda record: replace(record, steps=record.steps // 5)),
    "noise before it was divided by K": accounted(
        lambda record: replace(record, noise_multiplier=4 * record.noise_multiplier)
    ),
}


@pytest.mark.planted
@pytest.mark.parametrize(
    "defect",
    [
        pytest.param(plant, id=name, marks=[pytest.mark.slow] * (name != "rate of a micro-batch"))
        for name, plant in WRONG.items()
    ],
)
def test_planted_accountant_told_other_numbers(defect: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    plan = plan_of.__wrapped__()
    print(f"true epsilon {done_by(plan).epsilon():.3g} instead of {BUDGET.epsilon:g}")
    assert not holds(plan)


def reported_in_full() -> bool:
    """The property: after each charged step the run shows at least the epsilon that was spent."""
    plan = plan_of(steps=4)
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(RunKeys.for_tests(0))
        for step in range(plan.steps):
            account.charge(step)
            spent = Setting(
                rate=plan.sampling_probability,
                steps=step + 1,
                sigma=plan.noise_multiplier,
                delta=BUDGET.delta,
            )
            shown = account.epsilon()
            if not (shown is not None and 0.99 * spent.epsilon() <= shown <= BUDGET.epsilon):
                return False
        return True


def test_guarantee_spent_epsilon_is_reported_at_every_step() -> None:
    assert reported_in_full()


@pytest.mark.planted
@pytest.mark.parametrize("shown", [None, 0.009], ids=["no number", "that of another rate"])
def test_planted_report_of_less(shown: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reservation, "epsilon", lambda self: shown)
    assert not reported_in_full()
