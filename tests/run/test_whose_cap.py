"""What a run is told of the ledger that it comes under, before it and at its start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dp_diffusers.cli.ledger_note import ledger_note
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.run.accounts import _say_whose_cap

SIZES = DPSGD(steps=1, expected_units=20, population=200)
FIRST, LATER = Budget(0.5, 1e-4, cap=Cap(10.0, 1e-3)), Budget(0.4, 1e-4)


def said(first: Budget, later: Budget) -> str:
    """What a run of the budget `later` says at its start, in a ledger that `first` began."""
    told: list[str] = []
    job: Any = SimpleNamespace(
        plan=Plan.calibrate(later, SIZES), progress=lambda *, message: told.append(message)
    )
    with Ledger.open(":memory:") as ledger:
        ledger.reserve(Plan.calibrate(first, SIZES))
        _say_whose_cap(job, ledger)
    return "; ".join(told)


def test_a_run_under_the_ledger_s_cap_keeps_its_own_budget_and_says_so() -> None:
    words = said(FIRST, LATER)
    assert "a cap of epsilon 10 at delta 0.001, which its first run fixed: that limits all runs" in words
    assert words.endswith("this run also keeps its own budget of epsilon 0.4 at delta 0.0001")
    assert said(FIRST, Budget(0.4, 1e-4, cap=FIRST.cap)) == ""


def test_where_the_first_run_set_no_cap_the_budget_alone_limits() -> None:
    words = said(Budget(0.5, 1e-4, cap=None), LATER)
    assert "has no cap, which its first run fixed: nothing limits all runs together; this run" in words


def test_a_plan_is_told_both_deltas_of_its_ledger(tmp_path: Path) -> None:
    path, plan = tmp_path / "data.ledger", Plan.calibrate(LATER, SIZES)
    with Ledger.open(path) as ledger:
        ledger.reserve(Plan.calibrate(FIRST, SIZES))
    recipe: Any = SimpleNamespace(budget=SimpleNamespace(ledger=str(path)))
    note = ledger_note(recipe, plan)
    assert note is not None
    assert " at delta 0.001, with a cap of epsilon 10 at delta 0.001" in note
