"""Two hundred kills at random instants of real time, from the first line of a start to its last.

| what is killed                 | kills | what it may cost                                            |
|--------------------------------|-------|-------------------------------------------------------------|
| train, an image a unit         | 90    | the step that was paid for and not saved, once for each kill |
| train, several images a unit   | 50    | the same                                                    |
| generate                       | 60    | the images that were being sampled; no epsilon              |
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crash_account import Tally, at_the_end, left_over
from test_seams import fresh

from dp_diffusers.privacy.ledger import Ledger
from loop_support import charges, read_log

STEPS = 30


@dataclass(kw_only=True)
class Victim:
    """A command that is killed and started again until it is done, and then begun anew."""

    trainings: Any
    folder: Path
    start: Callable[[], int]
    phase: Callable[[Path], str]
    kept: Path | None = None
    tally: Tally = field(default_factory=Tally)

    def life(self) -> float:
        """Seconds of a clean run, which is then forgotten."""
        pid, began = self.start(), time.monotonic()
        assert self.trainings.wait(pid) == 0, self.output()
        seconds = time.monotonic() - began
        fresh(self.folder, self.kept)
        return seconds

    def output(self) -> str:
        return (self.folder / "output").read_text()[-1500:]

    def end(self) -> None:
        """Everything that must hold for a run that has ended."""
        self.tally.ended(self.folder)
        images = self.kept is not None
        self.tally.found += [f"left over: {name}" for name in left_over(self.folder, images=images)]
        at_the_end(self.folder, images=images)

    def kill(self, times: int, seed: int) -> Tally:
        """Kills it `times` times, each at a time uniform over a life.

        A life is as long as the machine is busy: what ended before its kill shortens it, a kill lengthens it.
        """
        chance, life = random.Random(seed), self.life()
        while self.tally.kills.total() < times:
            pid = self.start()
            asleep(pid, life * chance.random())
            code = self.trainings.kill(pid)
            if code == -signal.SIGKILL:
                self.tally.killed(self.folder, self.phase(self.folder))
                life *= 1.02
                continue
            life *= 0.9
            assert code == 0, self.output()
            self.end()
            fresh(self.folder, self.kept)
        assert self.trainings.wait(self.start()) == 0, self.output()
        self.end()
        assert "Traceback" not in self.output()
        return self.tally


def asleep(pid: int, seconds: float) -> None:
    """Sleeps, unless the process ends before."""
    wake = time.monotonic() + seconds
    while (left := wake - time.monotonic()) > 0 and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(min(left, 0.02))


def phase_of_training(folder: Path) -> str:
    """Where in its life a training died, by what it left."""
    if not (folder / "tiny.ledger").exists():
        return "before the ledger"
    with Ledger.open(folder / "tiny.ledger") as ledger:
        entries = ledger.entries()
    if not any(entry.kind == "reserve" for entry in entries):
        return "before the reservation"
    paid, (began, done) = charges(folder / "tiny.ledger"), read_log(folder / "log")
    if entries[-1].kind == "settle":
        return "after the last step"
    if entries[-1].kind != "charge":
        return "before its first step"
    if paid[-1] not in began:
        return "between charge and noise"
    return "in a release" if paid[-1] not in done else "after a release"


def phase_of_generation(folder: Path) -> str:
    """Where in its life a generation died, by what it left."""
    private = folder / "run" / "private"
    if "images/" in (folder / "run" / "release" / "certificate.json").read_text():
        return "certified"
    if (folder / "run" / "release" / "images").exists():
        return "placed"
    if (private / "images.new").exists():
        return "being written"
    return "sampling" if list(private.glob("images.partial/*.npy")) else "before the first image"


@pytest.mark.slow
def test_guarantee_ninety_random_kills_of_a_training(trainings: Any, tiny_recipe: Path) -> None:
    victim = Victim(
        trainings=trainings,
        folder=tiny_recipe.parent,
        start=lambda: trainings.start(tiny_recipe, f"mechanism.steps={STEPS}"),
        phase=phase_of_training,
    )
    victim.kill(90, seed=0).report("train, random instants")


def give_patients(recipe: Path) -> None:
    """Turns the 30 images into those of 12 patients, with one to five images each."""
    (path,) = (recipe.parent / "images").rglob("*.parquet")
    table = pq.read_table(path)
    sizes = [1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 5]
    patients = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    pq.write_table(table.append_column("patient", pa.array(patients)), path)
    text = recipe.read_text().replace("budget: {", "budget: {unit: patient, ")
    recipe.write_text(text.replace("expected_units: 10, population: 30", "expected_units: 4, population: 12"))


@pytest.mark.slow
def test_guarantee_fifty_random_kills_of_a_training_with_several_rows_per_unit(
    trainings: Any, tiny_recipe: Path
) -> None:
    give_patients(tiny_recipe)
    victim = Victim(
        trainings=trainings,
        folder=tiny_recipe.parent,
        start=lambda: trainings.start(tiny_recipe, f"mechanism.steps={STEPS}"),
        phase=phase_of_training,
    )
    victim.kill(50, seed=1).report("train, several images a unit, random instants")


@pytest.mark.slow
def test_guarantee_sixty_random_kills_of_a_generation(
    trainings: Any, tiny_recipe: Path, tmp_path: Path
) -> None:
    folder = tiny_recipe.parent
    assert trainings.run(tiny_recipe, "mechanism.steps=3") == 0, (folder / "output").read_text()
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copytree(folder / "run", kept / "run")
    for name in ("log", "tiny.ledger"):
        shutil.copy(folder / name, kept / name)
    fresh(folder, kept)
    victim = Victim(
        trainings=trainings,
        folder=folder,
        start=lambda: trainings.command(folder, ["generate", str(folder / "run"), "--images", "24"]),
        phase=phase_of_generation,
        kept=kept,
    )
    victim.kill(60, seed=2).report("generate, random instants")
