"""A ledger that lost its end: no cut of it opens with fewer charges, or fewer runs, than it had."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dp_diffusers.errors import LedgerError
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import Recipe

EVERY = 512  # bytes
CHARGES = 3


@pytest.fixture
def charged(tiny_recipe: Path) -> Path:
    """A ledger with one run of three charges."""
    path, plan = tiny_recipe.parent / "tiny.ledger", Recipe.load(tiny_recipe).plan()
    with Ledger.open(path) as ledger:
        account = ledger.reserve(plan, run_id="run")
        account.open_lane(plan.fresh_keys())
        for step in range(CHARGES):
            account.charge(step)
    return path


def forgetful_cuts(ledger: Path) -> list[int]:
    """The lengths at which a cut ledger opens and knows less than it did."""
    found = []
    for length in range(0, ledger.stat().st_size, EVERY):
        cut = Path(shutil.copy(ledger, ledger.with_name("cut.ledger")))
        os.truncate(cut, length)
        try:
            with Ledger.open(cut) as opened:
                known = opened.run("run").steps_charged if opened.has_run("run") else 0
        except LedgerError:
            continue
        if known < CHARGES:
            found.append(length)
    return found


def test_guarantee_a_cut_ledger_is_refused(charged: Path) -> None:
    assert forgetful_cuts(charged) == []


@pytest.mark.planted
def test_planted_a_ledger_whose_indexes_nobody_checks(charged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain alone follows the rows: cut in its last page, a ledger knows no run."""

    class Blind(sqlite3.Connection):
        """Finds every file in order."""

        def execute(self, sql: str, *values: Any) -> Any:
            if sql.startswith("PRAGMA integrity_check"):
                return SimpleNamespace(fetchone=lambda: ("ok",))
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Blind))
    assert len(forgetful_cuts(charged)) >= 5
