"""A ledger that is moved, forgotten, replaced or locked while a training runs: no step goes unpaid.

| what happens to the ledger's file | what the training does               | and then               |
|-----------------------------------|--------------------------------------|------------------------|
| moved away or deleted             | its next charge is refused, exit 2   | put it back, run again |
| an older copy in its place        | the same                             | the same               |
| an older copy written into it     | the same                             | the same               |
| a link to an older copy           | the same                             | the same               |
| locked for long                   | waits ten seconds, then exit 2       | run again              |
| the run folder is removed         | exit 2                               | the reservation stays  |
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash_account import at_the_end

from loop_support import charges, problems, problems_of_steps, read_log, until

LEDGER = "tiny.ledger"


def moved(ledger: Path, older: Path) -> None:
    ledger.rename(ledger.with_name("away"))


def replaced(ledger: Path, older: Path) -> None:
    moved(ledger, older)
    shutil.copy(older, ledger)


def overwritten(ledger: Path, older: Path) -> None:
    shutil.copy(ledger, ledger.with_name("away"))
    shutil.copyfile(older, ledger)


def linked(ledger: Path, older: Path) -> None:
    moved(ledger, older)
    ledger.symlink_to(older)


def after(trainings: Any, recipe: Path, steps: int, pid: int = 0, **options: Any) -> int:
    """A training that has begun some steps."""
    pid = pid or int(trainings.start(recipe, pause=0.05, **options))
    until(lambda: len(read_log(recipe.parent / "log")[0]) >= steps)
    return pid


def said(folder: Path) -> str:
    text = (folder / "output").read_text()
    assert "Traceback" not in text
    return text


@pytest.mark.slow
@pytest.mark.parametrize("change", [moved, replaced, overwritten, linked])
def test_guarantee_a_ledger_changed_under_a_training_charges_nothing_more(
    change: Callable[[Path, Path], None], trainings: Any, tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    pid = after(trainings, tiny_recipe, 2)
    os.kill(pid, signal.SIGSTOP)
    older = Path(shutil.copy(folder / LEDGER, folder / "older"))
    os.kill(pid, signal.SIGCONT)
    after(trainings, tiny_recipe, 5, pid)
    os.kill(pid, signal.SIGSTOP)
    change(folder / LEDGER, older)
    os.kill(pid, signal.SIGCONT)
    assert trainings.wait(pid) == 2, said(folder)
    assert "hint: " in said(folder)
    if trainings.run(tiny_recipe) == 2:  # nor does another start take it, by the head in the checkpoint
        assert problems_of_steps(charges(folder / "away"), *read_log(folder / "log")) == []
        (folder / LEDGER).unlink(missing_ok=True)
        (folder / "away").rename(folder / LEDGER)
        assert trainings.run(tiny_recipe) == 0, said(folder)
    else:  # a commit that was stopped in the middle has written every page of the newer one again
        assert change is overwritten
    at_the_end(folder)


@pytest.mark.planted
@pytest.mark.slow
def test_planted_a_charge_that_does_not_look_back(trainings: Any, tiny_recipe: Path) -> None:
    """Without the look at its last entry, a run goes on charging an older copy, which says too little."""
    folder = tiny_recipe.parent
    pid = after(trainings, tiny_recipe, 2, defects=["charge_without_looking_back"])
    os.kill(pid, signal.SIGSTOP)
    older = Path(shutil.copy(folder / LEDGER, folder / "older"))
    os.kill(pid, signal.SIGCONT)
    after(trainings, tiny_recipe, 5, pid)
    os.kill(pid, signal.SIGSTOP)
    overwritten(folder / LEDGER, older)
    os.kill(pid, signal.SIGCONT)
    trainings.wait(pid)
    assert "a step was released that nobody paid for" in problems(folder)


@pytest.mark.slow
def test_a_ledger_locked_for_long_is_exit_2_and_resumable(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    pid = after(trainings, tiny_recipe, 3)
    other = sqlite3.connect(folder / LEDGER, isolation_level=None, timeout=60)
    other.execute("BEGIN IMMEDIATE")
    assert trainings.wait(pid) == 2
    assert "is locked by another process" in said(folder)
    assert trainings.run(tiny_recipe) == 2
    other.execute("ROLLBACK")
    other.close()
    assert problems(folder) == []
    assert trainings.run(tiny_recipe) == 0, said(folder)
    at_the_end(folder)


@pytest.mark.slow
def test_a_run_folder_removed_under_a_training_is_exit_2_and_stays_paid(
    trainings: Any, tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    pid = after(trainings, tiny_recipe, 3)
    os.kill(pid, signal.SIGSTOP)
    shutil.rmtree(folder / "run")
    os.kill(pid, signal.SIGCONT)
    assert trainings.wait(pid) == 2, said(folder)
    assert "cannot use" in said(folder)
    assert problems(folder) == []
    assert trainings.run(tiny_recipe) == 3, "what the lost run may have cost stays reserved"
    assert "above its cap" in said(folder)


@pytest.mark.slow
def test_a_ledger_behind_a_link_is_the_same_ledger(trainings: Any, tiny_recipe: Path) -> None:
    """Moved to another disk, with a link left in its place: it goes on, journal and all."""
    folder, elsewhere = tiny_recipe.parent, tiny_recipe.parent / "elsewhere"
    elsewhere.mkdir()
    trainings.kill(after(trainings, tiny_recipe, 3))
    for name in (LEDGER, f"{LEDGER}-journal"):
        (folder / name).rename(elsewhere / name)
    (folder / LEDGER).symlink_to(elsewhere / LEDGER)
    assert trainings.run(tiny_recipe) == 0, said(folder)
    at_the_end(folder)
    assert len(charges(elsewhere / LEDGER)) == len(charges(folder / LEDGER)) >= 12
