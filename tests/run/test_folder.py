"""A run folder beside other commands: what a sweep takes, what it leaves, and what is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dp_diffusers.errors import RunFolderError
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.whole_files import replacing, temporary_of


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder without a run."""
    made = RunFolder(tmp_path)
    made.create()
    return made


@pytest.fixture(scope="module")
def dead() -> int:
    """Number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_guarantee_a_sweep_leaves_what_another_command_is_writing(folder: RunFolder) -> None:
    """`near-copies` and `evaluate` write without the lock, while a generation or a report ends."""
    with replacing(folder.private / "near-copies.json") as stream:
        stream.write(b"{}")
        other = folder.private / f"evaluation.json.{os.getppid()}-0123abcd.tmp"
        other.touch()
        with folder.lock():
            pass
    assert (folder.private / "near-copies.json").read_bytes() == b"{}"
    assert other.exists()


@pytest.mark.parametrize("place", [".", "private", "private/answers"])
def test_what_the_dead_left_is_swept(folder: RunFolder, dead: int, place: str) -> None:
    (folder.root / place).mkdir(exist_ok=True)
    left = [folder.root / place / f"x.json.{number}-0123abcd.tmp" for number in (dead, os.getpid())]
    for path in left:
        path.touch()
    with folder.lock():
        pass
    assert not any(path.exists() for path in left)


def test_a_release_is_swept_before_anyone_looks_at_it(folder: RunFolder, dead: int) -> None:
    (folder.release / "adapter").mkdir()
    left = folder.release / "adapter" / f"teacher.safetensors.{dead}-0123abcd.tmp"
    kept = [folder.release / "mine.tmp", temporary_of(folder.release / "certificate.json")]
    for path in (left, *kept):
        path.touch()
    with folder.lock():
        assert not left.exists()
        assert all(path.exists() for path in kept)


def test_a_missing_recipe_is_one_line(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"holds no recipe\.yaml, which names the base"):
        folder.settings()


def test_a_release_in_the_place_of_its_run_is_told_from_nothing(folder: RunFolder) -> None:
    (folder.release / "certificate.json").write_text("{}")
    with pytest.raises(RunFolderError, match="is the release of a run, and no run folder") as caught:
        RunFolder(folder.release).require_finished()
    assert "`dp-diffusers merge` with --base" in str(caught.value.hint), "nothing beside it is a run"
    folder.recipe.write_text("base: b\n")
    with pytest.raises(RunFolderError, match="is the release of a run") as caught:
        RunFolder(folder.release).require_finished()
    assert caught.value.hint == f"give the run: {folder.root}"


def test_a_file_in_the_place_of_a_run_is_called_one(folder: RunFolder) -> None:
    folder.recipe.write_text("base: b\n")
    with pytest.raises(RunFolderError, match=r"recipe\.yaml is a file, and holds no finished run") as caught:
        RunFolder(folder.recipe).require_finished()
    assert "train RECIPE --out RUN" in str(caught.value.hint)


@pytest.mark.parametrize("left", ["run.json", "checkpoint.pt"])
def test_a_training_that_was_interrupted_is_to_be_gone_on_with(folder: RunFolder, left: str) -> None:
    """Its release has no certificate yet: that is no folder where nothing ever ran."""
    (folder.private / left).write_text("{}")
    for certificate in (False, True):
        if certificate:
            (folder.release / "certificate.json").write_text("{}")
        with pytest.raises(RunFolderError, match=r"the training in .* has not finished") as caught:
            folder.require_finished()
        assert "with its recipe and this --out goes on with it" in str(caught.value.hint)


def test_where_nothing_ran_a_training_makes_a_run(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="holds no finished run"):
        folder.require_finished()
