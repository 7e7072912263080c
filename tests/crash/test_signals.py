"""Told to stop, twice, by others than the user; without the parent that began it; with a clock that jumps."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from crash_account import Tally, at_the_end

from loop_support import charges, problems, read_log, until

STEPS = "mechanism.steps=12"


def stepping(trainings: Any, recipe: Path, **options: Any) -> int:
    """A training that has begun its third step."""
    # slow enough that the signal comes long before the end, however busy the machine is
    pid = int(trainings.start(recipe, STEPS, pause=0.5, **options))
    until(lambda: len(read_log(recipe.parent / "log")[0]) >= 3)
    return pid


def ends_well(trainings: Any, recipe: Path) -> None:
    """The account of what was stopped is right, and the same command ends it."""
    folder = recipe.parent
    tally = Tally()
    tally.killed(folder, "stopped")
    assert tally.found == []
    assert trainings.run(recipe, STEPS) == 0, (folder / "output").read_text()
    at_the_end(folder)
    assert "Traceback" not in (folder / "output").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_nothing_is_lost(sign: int, trainings: Any, tiny_recipe: Path) -> None:
    assert trainings.kill(stepping(trainings, tiny_recipe), sign) == -sign
    ends_well(trainings, tiny_recipe)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.0, 0.001, 0.01, 0.1])
def test_ctrl_c_twice_is_no_traceback(apart: float, trainings: Any, tiny_recipe: Path) -> None:
    pid = stepping(trainings, tiny_recipe)
    os.kill(pid, signal.SIGINT)
    time.sleep(apart)
    assert trainings.kill(pid, signal.SIGINT) in (130, -signal.SIGINT)
    ends_well(trainings, tiny_recipe)


@pytest.mark.slow
def test_a_training_whose_parent_dies_is_paid_for(trainings: Any, tiny_recipe: Path) -> None:
    """Its parent held the other end of its output; nobody reads what it says any more."""
    folder = tiny_recipe.parent
    pid = stepping(trainings, tiny_recipe, orphan=True)
    child = int((folder / "orphan").read_text())
    assert trainings.kill(pid) == -signal.SIGKILL
    until(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())
    ends_well(trainings, tiny_recipe)


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["clock_of_1970", "clock_that_jumps"])
def test_guarantee_the_clock_has_no_part_in_the_account(
    clock: str, trainings: Any, tiny_recipe: Path
) -> None:
    """Set back between a run and its resume, or jumping all the while: the same charges, the same epsilon."""
    folder = tiny_recipe.parent
    trainings.kill(stepping(trainings, tiny_recipe))
    before = len(charges(folder / "tiny.ledger"))
    assert problems(folder) == []
    assert trainings.run(tiny_recipe, STEPS, defects=[clock]) == 0, (folder / "output").read_text()
    certificate = at_the_end(folder)
    charged = certificate["mechanisms"][0]["steps_charged"]
    assert before < charged == len(charges(folder / "tiny.ledger"))
    assert 12 <= charged <= 13
    assert certificate["epsilon"] == pytest.approx(1.0, rel=0.02)
