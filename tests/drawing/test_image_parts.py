"""Parts of images: whole or not there, made by one process at a time, given up by a process that dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dp_diffusers.drawing.image_parts import PARTS, GoneError, Parts, clear_parts
from dp_diffusers.drawing.shares import _order, make_rest, make_share
from dp_diffusers.errors import RunFolderError
from dp_diffusers.generating import _sampled, _share_of, silent
from dp_diffusers.processes.ranks import Ranks
from dp_diffusers.run.folder import RunFolder

REQUEST = {"count": 7, "seed": 0}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder without a run."""
    made = RunFolder(tmp_path)
    made.create()
    return made


def _draw(images: range) -> np.ndarray:
    return np.stack([np.full((2, 2, 1), number, np.uint8) for number in images])


def _elsewhere(work: Callable[[], object]) -> int:
    """Does work in another process, which keeps what that returns until it is killed, or this one ends."""
    (reading, writing), (alive, ends) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ends)
        kept = work()
        os.write(writing, b"x")
        os.read(alive, 1)
        os._exit(int(kept is None))
    os.close(writing)
    os.close(alive)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return pid


def _claim(folder: RunFolder) -> object:
    claim = Parts(folder, REQUEST, size=3).claimed(1)
    assert claim.__enter__()
    return claim


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_parts_are_kept_and_come_together(folder: RunFolder) -> None:
    parts = Parts(folder, REQUEST, size=3)
    assert [parts.images_of(number) for number in range(len(parts))] == [range(3), range(3, 6), range(6, 7)]
    told: list[int] = []
    make_share(parts, _draw, Ranks(), lambda: told.append(parts.made))
    assert told == [3, 6, 7]
    again = Parts(folder, REQUEST, size=3)
    assert again.missing() == []
    assert again.images()[:, 0, 0, 0].tolist() == [*range(7)]
    assert Parts(folder, {**REQUEST, "seed": 1}, size=3).missing() == [0, 1, 2], "another request"
    assert Parts(folder, REQUEST, size=2).missing() == [0, 1, 2, 3], "other parts"
    again.drop_others()
    assert Parts(folder, REQUEST, size=3).missing() == []
    clear_parts(folder)
    with pytest.raises(GoneError):
        again.add(0, _draw(range(3)))


def test_who_finds_nothing_to_do_deletes_no_part(folder: RunFolder) -> None:
    Parts(folder, REQUEST, size=3).abandon()
    assert not (folder.private / PARTS).exists()
    Parts(folder, REQUEST, size=3).add(1, _draw(range(3, 6)))
    Parts(folder, REQUEST, size=3).abandon()
    assert Parts(folder, REQUEST, size=3).missing() == [0, 2]


def test_a_share_of_images_that_are_there_is_nothing(folder: RunFolder) -> None:
    (folder.release / "images").mkdir()  # of whatever request: the first process refuses another one

    def draw(images: range) -> np.ndarray:
        raise AssertionError("drawn for nothing")

    parts = Parts(folder, REQUEST, size=3)
    release = SimpleNamespace(folder=folder)
    job: Any = SimpleNamespace(release=release, parts=lambda: parts, draw=draw, request=REQUEST)
    assert _share_of(job, None, Ranks(rank=1, count=2)) == folder.release / "images"
    assert not (folder.private / PARTS).exists()


def test_parts_that_someone_deletes_are_told_in_one_line(folder: RunFolder) -> None:
    def draw(images: range) -> np.ndarray:
        clear_parts(folder)
        return _draw(images)

    job: Any = SimpleNamespace(parts=lambda: Parts(folder, REQUEST, size=3), draw=draw)
    with pytest.raises(RunFolderError, match="deleted meanwhile"):
        _sampled(job, Ranks(), silent)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_part_that_was_cut_is_missing(folder: RunFolder, kept: int) -> None:
    make_share(Parts(folder, REQUEST, size=3), _draw, Ranks())
    (path,) = folder.private.rglob("00001.npy")
    path.write_bytes(path.read_bytes()[:kept])
    assert Parts(folder, REQUEST, size=3).missing() == [1]


def test_a_part_of_too_few_images_is_missing(folder: RunFolder) -> None:
    parts = Parts(folder, REQUEST, size=3)
    parts.add(1, _draw(range(3, 5)))
    assert 1 in Parts(folder, REQUEST, size=3).missing()


def test_ranks_begin_with_their_own_parts_and_end_with_all() -> None:
    orders = [[*_order(7, Ranks(rank=rank, count=3))] for rank in range(3)]
    assert [order[:2] for order in orders] == [[0, 3], [1, 4], [2, 5]]
    assert all(sorted(order) == [*range(7)] for order in orders)


def test_guarantee_a_part_is_made_once_and_given_up_by_the_dead(folder: RunFolder) -> None:
    parts, drawn = Parts(folder, REQUEST, size=3), []

    def draw(images: range) -> np.ndarray:
        drawn.append(images.start)
        return _draw(images)

    other = _elsewhere(partial(_claim, folder))
    make_share(parts, draw, Ranks())
    assert (drawn, parts.missing()) == ([0, 6], [1]), "what a living process makes is left to it"
    _kill(other)
    make_rest(parts, draw)
    assert (drawn, parts.missing()) == ([0, 6, 3], [])


def test_guarantee_the_first_process_waits_for_the_living(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, waited = Parts(folder, REQUEST, size=3), []

    other = _elsewhere(partial(_claim, folder))

    def pause(_: float) -> None:  # meanwhile the other process finishes
        waited.append(parts.missing())
        Parts(folder, REQUEST, size=3).add(1, _draw(range(3, 6)))

    monkeypatch.setattr("dp_diffusers.drawing.shares.time.sleep", pause)
    make_share(parts, _draw, Ranks(count=2))
    make_rest(parts, _draw)
    _kill(other)
    assert waited == [[1]]
    assert parts.images()[:, 0, 0, 0].tolist() == [*range(7)]


def test_a_file_system_without_locks_makes_the_same(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    make_share(Parts(folder, REQUEST, size=3), _draw, Ranks(rank=1, count=2))
    assert Parts(folder, REQUEST, size=3).missing() == []
