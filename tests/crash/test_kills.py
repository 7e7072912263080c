"""Trainings killed at every kind of instant: the ledger never says less than was released, nor too much."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from crash_account import at_the_end, report

from dp_diffusers.privacy.ledger import Ledger
from loop_support import charges, epsilon_of_charges, problems, read_log, until

BUDGET = 1.0
MANY_STEPS = "mechanism.steps=150"
LEDGER = "dp_diffusers.privacy.ledger:Ledger."
ACCOUNT = "dp_diffusers.privacy.reservation:Reservation."
FOLDER = "dp_diffusers.run.folder:RunFolder."
INSTANTS: list[tuple[str, str, int]] = [
    (LEDGER + "reserve", "before", 1),  # the run has its name, the ledger does not know it
    (LEDGER + "reserve", "after", 1),  # reserved, the folder does not know the head
    (ACCOUNT + "open_lane", "after", 1),
    ("dp_diffusers.data.private_images:PrivateImages.open", "before", 1),
    (ACCOUNT + "charge", "before", 1),
    (ACCOUNT + "charge", "after", 2),  # paid, no noise drawn
    ("dp_diffusers.engine.private_gradient:noisy", "after", 3),
    ("dp_diffusers.engine.private_gradient:PrivateGradient.release", "after", 2),  # released, not saved
    ("torch:save", "in", 2),  # half a checkpoint
    ("dp_diffusers.checkpoint:save_atomic", "after", 1),  # saved, not reported
    ("dp_diffusers.training:Loop.train", "after", 1),  # all steps done, not settled
    (ACCOUNT + "settle", "after", 1),
    ("dp_diffusers.strategies.adapter:save_file", "after", 1),  # weights without their configuration
    ("dp_diffusers.release:model_card", "after", 1),
    ("dp_diffusers.privacy.certificate:Certificate.issue", "after", 1),
    (FOLDER + "write", "after", 2),  # nothing is written but "done" once the head is known
]


def finished(trainings: Any, recipe: Path, *overrides: str) -> dict[str, Any]:
    """Runs to the end and checks all that must hold then; the certificate."""
    folder = recipe.parent
    assert trainings.run(recipe, *overrides) == 0, (folder / "output").read_text()
    return at_the_end(folder, budget=BUDGET)


def kill_when(trainings: Any, pid: int, folder: Path, released: int, delay: float) -> int:
    """Kills a training a moment after it began `released` more steps; checks the account all the while."""
    goal = len(read_log(folder / "log")[0]) + released

    def begun() -> bool:
        assert problems(folder) == []
        return len(read_log(folder / "log")[0]) >= goal

    until(begun)
    time.sleep(delay)
    return int(trainings.kill(pid))


@pytest.mark.slow
def test_guarantee_killed_twice_at_random_it_ends_and_all_is_paid(trainings: Any, tiny_recipe: Path) -> None:
    folder, chance = tiny_recipe.parent, random.Random(0)
    for _ in range(2):
        pid = trainings.start(tiny_recipe, pause=0.02)
        assert kill_when(trainings, pid, folder, 3, 0.05 * chance.random()) == -signal.SIGKILL
        assert problems(folder) == []
    finished(trainings, tiny_recipe)
    began, done = read_log(folder / "log")
    assert len({lane for lane, _ in began}) == 3
    assert len(done) >= 4


@pytest.mark.slow
def test_guarantee_killed_at_every_seam_of_one_run(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    for instant in INSTANTS:
        code = trainings.run(tiny_recipe, die=instant)
        assert code == -signal.SIGKILL, (instant, code, (folder / "output").read_text()[-500:])
        assert problems(folder) == [], instant
    finished(trainings, tiny_recipe)
    with Ledger.open(folder / "tiny.ledger") as ledger:
        assert len(ledger.runs()) == 1


@pytest.mark.slow
def test_guarantee_twenty_kills(trainings: Any, tiny_recipe: Path) -> None:
    """At any time of a start, among its steps, between charge and release; the last start is the command."""
    folder, chance = tiny_recipe.parent, random.Random(1)
    paid_unreleased: list[int] = []
    for kill in range(20):
        if kill % 5 == 4:
            die = (ACCOUNT + "charge", "after", chance.randint(1, 6))
            code = trainings.run(tiny_recipe, MANY_STEPS, die=die)
        elif kill % 2:
            pid = trainings.start(tiny_recipe, MANY_STEPS, pause=0.05)
            code = kill_when(trainings, pid, folder, 1, 0.3 * chance.random())
        else:
            pid = trainings.start(tiny_recipe, MANY_STEPS, pause=0.05)
            time.sleep(1.5 * chance.random())
            code = trainings.kill(pid)
        assert code == -signal.SIGKILL
        assert problems(folder) == []
        began, _ = read_log(folder / "log")
        paid_unreleased.append(len(charges(folder / "tiny.ledger")) - len(began))
    windows = sum(later > before for before, later in zip([0, *paid_unreleased], paid_unreleased))
    assert windows >= 4, "at least these fell between charge and release"
    paid_when_killed = len(charges(folder / "tiny.ledger"))
    trainer = Path(__file__).parent / "trainer.py"
    command = ["train", str(tiny_recipe), "--out", str(folder / "run"), "--set", MANY_STEPS]
    subprocess.run([sys.executable, str(trainer), str(folder / "log"), *command], check=True)
    certificate = finished(trainings, tiny_recipe, MANY_STEPS)
    assert epsilon_of_charges(folder) == pytest.approx(certificate["epsilon"], rel=1e-3)
    began, done = read_log(folder / "log")
    report(
        f"20 kills: {paid_when_killed} steps paid before the last start, "
        f"{certificate['mechanisms'][0]['steps_charged']} in all for {len(began)} begun "
        f"and {len(done)} done in {len({lane for lane, _ in began})} lanes; "
        f"killed between charge and release: {windows}; epsilon {certificate['epsilon']:.4f} of {BUDGET}"
    )


@pytest.mark.slow
def test_ctrl_c_is_130_and_resumable(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    pid = trainings.start(tiny_recipe, pause=0.02)
    until(lambda: len(read_log(folder / "log")[0]) >= 3)
    assert trainings.kill(pid, signal.SIGINT) == 130
    assert "interrupted" in (folder / "output").read_text()
    assert "Traceback" not in (folder / "output").read_text()
    assert problems(folder) == []
    finished(trainings, tiny_recipe)
    assert "resuming at step" in (folder / "output").read_text()


@pytest.mark.slow
def test_guarantee_one_of_two_processes_in_a_run_folder_is_refused(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    first = trainings.start(tiny_recipe, pause=0.02)
    second = trainings.start(tiny_recipe, pause=0.02)
    assert sorted([trainings.wait(first), trainings.wait(second)]) == [0, 2]
    assert "another process is at work" in (folder / "output").read_text()
    assert "Traceback" not in (folder / "output").read_text()
    assert len(charges(folder / "tiny.ledger")) == len(read_log(folder / "log")[1]) == 12
    finished(trainings, tiny_recipe)


@pytest.mark.slow
def test_guarantee_two_runs_at_once_stay_below_the_cap(trainings: Any, tiny_recipe: Path) -> None:
    folder = tiny_recipe.parent
    both = [trainings.start(tiny_recipe, out=name, pause=0.02) for name in ("run", "other")]
    assert sorted(map(trainings.wait, both)) == [0, 3], (folder / "output").read_text()
    assert "above its cap" in (folder / "output").read_text()
    assert problems(folder) == []


@pytest.mark.slow
def test_guarantee_without_the_folder_lock_lanes_keep_two_processes_apart(
    trainings: Any, tiny_recipe: Path
) -> None:
    """Some disks have no locks: with the lock unlinked, the newer process fences the older one.

    Both are slow, so that both are at work for a while on a busy machine too.
    """
    folder = tiny_recipe.parent
    first = trainings.start(tiny_recipe, pause=0.5)
    until(lambda: len(read_log(folder / "log")[0]) >= 3)
    (folder / "run" / "private" / "lock").unlink()
    second = trainings.start(tiny_recipe, pause=0.5)
    assert trainings.wait(first) == 2
    assert trainings.wait(second) == 0
    assert "taken over by another process" in (folder / "output").read_text()
    assert "Traceback" not in (folder / "output").read_text()
    assert problems(folder) == []
    finished(trainings, tiny_recipe)
