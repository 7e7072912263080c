"""Killed at every fsync, rename, link, unlink and commit, on both sides of it: all of them, not a sample."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash_account import Tally, at_the_end, left_over
from seams import names_of

STEPS = "mechanism.steps=3"
Start = Callable[..., int]


def seams_of(start: Start, folder: Path) -> list[str]:
    """What a clean run passes."""
    names = folder / "names"
    assert start(seams={"names": str(names)}) == 0, (folder / "output").read_text()
    return names_of(names)


def fresh(folder: Path, kept: Path | None) -> None:
    """The folder as it was before the command: without a run, or with the finished run of `kept`."""
    for path in folder.glob("*tiny.ledger*"):
        path.unlink()
    for name in ("log", "output", "names"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    if kept is not None:
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def killed_everywhere(start: Start, folder: Path, kept: Path | None = None) -> Tally:
    """One process for each seam and side dies there; the next one ends the run."""
    tally = Tally()
    names = seams_of(start, folder)
    for at, name in enumerate(names, start=1):
        for when in ("before", "after"):
            fresh(folder, kept)
            code = start(seams={"at": at, "when": when})
            assert code == -signal.SIGKILL, (name, when, (folder / "output").read_text())
            tally.killed(folder, name.split()[0])
            assert start() == 0, (name, when, (folder / "output").read_text())
            tally.ended(folder)
            tally.found += [f"{when} {name}: {left}" for left in left_over(folder, images=kept is not None)]
            at_the_end(folder, images=kept is not None)
    return tally


@pytest.mark.slow
def test_guarantee_a_training_killed_at_every_seam(trainings: Any, tiny_recipe: Path) -> None:
    def start(**options: Any) -> int:
        return int(trainings.run(tiny_recipe, STEPS, **options))

    tally = killed_everywhere(start, tiny_recipe.parent)
    assert tally.kills.total() >= 60
    tally.report("train, every seam, both sides")


@pytest.mark.slow
def test_guarantee_a_generation_killed_at_every_seam(
    trainings: Any, tiny_recipe: Path, tmp_path: Path
) -> None:
    folder, kept = tiny_recipe.parent, tmp_path / "kept"
    assert trainings.run(tiny_recipe, STEPS) == 0
    kept.mkdir()
    for name in ("run", "log", "tiny.ledger"):
        copy: Any = shutil.copytree if (folder / name).is_dir() else shutil.copy
        copy(folder / name, kept / name)

    def start(**options: Any) -> int:
        return int(trainings.wait(trainings.command(folder, ["generate", str(folder / "run")], **options)))

    tally = killed_everywhere(start, folder, kept)
    assert tally.kills.total() >= 20
    tally.report("generate, every seam, both sides")


@pytest.mark.planted
@pytest.mark.slow
def test_planted_checkpoint_written_in_place(trainings: Any, tiny_recipe: Path) -> None:
    die = ("torch:save", "in", 2)
    assert trainings.run(tiny_recipe, STEPS, defects=["checkpoint_in_place"], die=die) == -signal.SIGKILL
    tally = Tally()
    tally.killed(tiny_recipe.parent, "in a checkpoint")
    assert tally.corrupted == 1
    assert any("the checkpoint does not load" in what for what in tally.found), tally.found


@pytest.mark.planted
@pytest.mark.slow
def test_planted_charge_one_step_late(trainings: Any, tiny_recipe: Path) -> None:
    die = ("dp_diffusers.checkpoint:save_atomic", "before", 1)
    assert trainings.run(tiny_recipe, STEPS, defects=["charge_one_step_late"], die=die) == -signal.SIGKILL
    tally = Tally()
    tally.killed(tiny_recipe.parent, "before a checkpoint")
    assert tally.unaccounted == 1
    assert any("that nobody paid for" in what for what in tally.found), tally.found


@pytest.mark.planted
@pytest.mark.slow
def test_planted_resume_in_the_same_lane(trainings: Any, tiny_recipe: Path) -> None:
    """Killed between a release and its checkpoint, a process with the same keys draws its noise again."""
    release = "dp_diffusers.engine.private_gradient:PrivateGradient.release"
    assert trainings.run(tiny_recipe, defects=["same_lane"], die=(release, "after", 2)) == -signal.SIGKILL
    trainings.run(tiny_recipe, defects=["same_lane"], die=(release, "after", 2))
    tally = Tally()
    tally.killed(tiny_recipe.parent, "same_lane")
    assert any("share lane and step" in what for what in tally.found), tally.found
    assert tally.unaccounted > 0
