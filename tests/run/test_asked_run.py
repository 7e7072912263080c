"""Whose cap a question about a finished run comes under."""

from __future__ import annotations

from pathlib import Path

import pytest

from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.run.asked_run import AskedRun
from dp_diffusers.run.folder import RunFolder


def question(folder: Path, plan: Plan, epsilon: float) -> Budget:
    def never(*_: int) -> None:
        raise AssertionError("a budget needs no image")

    run = AskedRun(
        folder=RunFolder(folder),
        plan=plan,
        ledger=None,
        source="data.path",
        open_images=never,  # type: ignore[arg-type]
    )
    return run.budget_of_question(epsilon)


@pytest.mark.slow
def test_after_a_run_that_wrote_no_cap_it_is_the_ledgers(tmp_path):
    sizes = DPSGD(steps=1, expected_units=20, population=200)
    first = Plan.calibrate(Budget(0.5, 1e-4, cap=Cap(10.0, 1e-4)), sizes)
    later = Plan.calibrate(Budget(0.4, 1e-4), sizes)
    with Ledger.open(":memory:") as ledger:
        ledger.reserve(first)
        ledger.reserve(later)
        asked = Plan.calibrate(question(tmp_path, later, 0.1), sizes)
        ledger.reserve(asked)
        assert ledger.terms is not None
        assert ledger.terms.cap == Cap(10.0, 1e-4)


@pytest.mark.parametrize("cap", [Cap(10.0, 1e-4), None])
def test_after_a_run_that_wrote_one_it_is_that(tmp_path, cap):
    plan = Plan.calibrate(Budget(0.5, 1e-4, cap=cap), DPSGD(steps=1, expected_units=20, population=200))
    assert question(tmp_path, plan, 0.1).cap == cap
