"""Two trainings that race for the last of a cap: one gets it, the other is refused, each time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from crash_account import report

from dp_diffusers.privacy.ledger import Ledger
from loop_support import problems_of_ledger, read_log

CAP = "budget.cap={epsilon: 2.5, delta: 1.0e-3}"
OPTIONS = ("mechanism.steps=3", CAP)
RACES = 20


def room_for_one(trainings: Any, recipe: Path) -> Path:
    """A ledger whose cap has room for exactly one more run."""
    folder = recipe.parent
    for number in range(20):
        code = trainings.run(recipe, *OPTIONS, out=f"alone{number}")
        if code == 3:
            return folder / f"after{number - 2}.ledger"  # without the last run that found room
        assert code == 0, (folder / "output").read_text()
        shutil.copy(folder / "tiny.ledger", folder / f"after{number}.ledger")
    raise AssertionError("the cap never ends")


@pytest.mark.slow
def test_guarantee_one_of_two_wins_the_last_of_the_cap(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    start = room_for_one(trainings, tiny_recipe)
    with Ledger.open(start) as ledger:
        earlier = len(ledger.runs())
    spent = 0.0
    for race in range(RACES):
        shutil.copy(start, folder / "tiny.ledger")
        (folder / "log").unlink()
        both = [trainings.start(tiny_recipe, *OPTIONS, out=f"{side}{race}") for side in ("left", "right")]
        codes = sorted(trainings.wait(pid) for pid in both)
        assert codes == [0, 3], (race, (folder / "output").read_text()[-2000:])
        assert problems_of_ledger(folder / "tiny.ledger") == []
        with Ledger.open(folder / "tiny.ledger") as ledger:
            spent, runs = ledger.spent().epsilon, ledger.runs()
        assert spent <= 2.5
        assert len(runs) == earlier + 1
        began, done = read_log(folder / "log")
        assert len(began) == len(done) == 3
    assert "Traceback" not in (folder / "output").read_text()
    report(f"{RACES} races for the last of a cap of 2.5: one winner each, epsilon {spent:.4f} spent")
