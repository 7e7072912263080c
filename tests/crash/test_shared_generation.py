"""Images made by several processes, killed at every kind of instant: the files are those of one process."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from crash_account import OF_IMAGES, at_the_end, files
from seams import names_of

from dp_diffusers.drawing.images_out import PARQUET

STEPS = "mechanism.steps=3"
SAMPLE = "dp_diffusers.drawing.image_job:sample"
PART_ADDED = "dp_diffusers.drawing.image_parts:Parts.add"
ALL_THERE = "dp_diffusers.drawing.image_parts:Parts.images"


class Generations:
    """One finished training, and generations of it by ranks of a launcher."""

    def __init__(self, trainings: Any, recipe: Path, kept: Path) -> None:
        self._trainings, self.folder, self._kept = trainings, recipe.parent, kept
        assert trainings.run(recipe, STEPS) == 0
        shutil.copytree(self.folder / "run", kept)
        assert self.wait(self.start()) == 0, self.said()
        self.expected = self.images()

    def fresh(self) -> None:
        """As it was before any image was made."""
        shutil.rmtree(self.folder / "run")
        shutil.copytree(self._kept, self.folder / "run")
        (self.folder / "output").unlink(missing_ok=True)

    def start(self, rank: int = 0, count: int = 1, **options: Any) -> int:
        """`generate` as one of several processes; the process id."""
        ranks = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        words = ["generate", str(self.folder / "run")]
        return int(self._trainings.command(self.folder, words, environment=ranks, **options))

    def wait(self, pid: int) -> int:
        return int(self._trainings.wait(pid))

    def said(self) -> str:
        return (self.folder / "output").read_text()

    def images(self) -> bytes:
        return (self.folder / "run" / "release" / "images" / PARQUET).read_bytes()

    def parts(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "run" / "private").rglob("0*.npy"))

    def require_whole(self) -> None:
        """The images are those of one process, certified, and nothing else is left."""
        assert self.images() == self.expected
        at_the_end(self.folder, images=True)


_MADE: list[Generations] = []  # one training for all of these tests


@pytest.fixture
def generations(trainings: Any, tiny_recipe: Path, tmp_path: Path) -> Generations:
    if not _MADE:
        _MADE.append(Generations(trainings, tiny_recipe, tmp_path / "kept"))
    _MADE[0].fresh()
    return _MADE[0]


@pytest.mark.slow
def test_guarantee_three_processes_make_the_files_of_one(generations: Generations) -> None:
    pids = [generations.start(rank, 3) for rank in range(3)]
    assert [generations.wait(pid) for pid in pids] == [0, 0, 0], generations.said()
    generations.require_whole()
    path = str(generations.folder / "run" / "release" / "images")
    assert generations.said().splitlines().count(path) == 1, "the first process alone answers"
    assert generations.wait(generations.start(2, 3)) == 0, "one that comes late"
    assert "is there already" not in generations.said()
    generations.require_whole()


@pytest.mark.slow
def test_guarantee_a_process_that_dies_leaves_its_part_to_another(generations: Generations) -> None:
    for die in ((SAMPLE, "before", 1), (PART_ADDED, "after", 1)):
        generations.fresh()
        other = generations.start(1, 2, die=die)
        assert generations.wait(other) == -signal.SIGKILL, generations.said()
        assert len(generations.parts()) == (die[0] == PART_ADDED)
        pids = [generations.start(rank, 2) for rank in range(2)]
        assert [generations.wait(pid) for pid in pids] == [0, 0], generations.said()
        generations.require_whole()


@pytest.mark.slow
def test_guarantee_what_was_made_is_not_made_again(generations: Generations) -> None:
    """The first process dies with all parts there; one process of none, or of other many, draws nothing."""
    assert generations.wait(generations.start(1, 2)) == 0, generations.said()
    assert len(generations.parts()) == 3, "without the first process, another makes all that is missing"
    assert generations.wait(generations.start(0, 2, die=(ALL_THERE, "before", 1))) == -signal.SIGKILL
    assert generations.wait(generations.start(die=(SAMPLE, "before", 1))) == 0, generations.said()
    generations.require_whole()


@pytest.mark.slow
def test_guarantee_a_share_killed_at_every_seam(generations: Generations) -> None:
    """fsync and rename of every part and note, on both sides; then one process ends it."""
    names = generations.folder / "names"
    assert generations.wait(generations.start(1, 2, seams={"names": str(names)})) == 0, generations.said()
    count = len(names_of(names))
    assert count >= 12
    generations.fresh()
    kills = 0
    for at in range(count, 0, -1):
        code = generations.wait(
            generations.start(1, 2, seams={"at": at, "when": "before" if at % 2 else "after"})
        )
        assert code in (0, -signal.SIGKILL), generations.said()
        kills += code != 0
    assert kills >= 4, "the later the seam, the less is left to make"
    assert generations.wait(generations.start()) == 0, generations.said()
    generations.require_whole()
    assert files(generations.folder / "run") >= OF_IMAGES
