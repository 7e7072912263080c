"""Rows in files: where they lie, what a kill or a full disk leaves, and what is never believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_diffusers.errors import RunFolderError
from dp_diffusers.loop import row_store
from dp_diffusers.loop.row_store import INDEX, RowStore

COUNT, BLOCK = 23, 4
VALUES = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    return {"wide": VALUES[start:stop], "number": np.arange(start, stop)}


def filled(folder: Path, compute: Any = rows, **other: Any) -> RowStore:
    store = RowStore(folder=folder, **{"key": "k", "count": COUNT, "block": BLOCK, **other})
    store.fill(compute)
    return store


def is_right(store: RowStore) -> bool:
    index = np.random.default_rng(1).integers(0, COUNT, 60)
    found = store.take("wide", index), store.take("number", index)
    return np.array_equal(found[0], VALUES[index]) and np.array_equal(found[1], index)


@pytest.mark.parametrize("size", [1, 2 * 4 * 12, 2**30])
def test_rows_of_every_shard_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(row_store, "SHARD_BYTES", size)
    store = filled(tmp_path / "s")
    assert is_right(store)
    files = {1: 6, 96: 3, 2**30: 1}[size]
    assert len(list((tmp_path / "s").glob("wide-*.bin"))) == files
    taken = store.take("wide", np.array([5]))
    taken += 1  # a copy: the file cannot be written through it
    assert is_right(store)
    assert store.take("wide", np.zeros(0, np.int64)).shape == (0, 3)


def computed(folder: Path, **other: Any) -> list[int]:
    """Where the blocks begin that a process computes, which then has all of them right."""
    begun: list[int] = []

    def counting(start: int, stop: int) -> dict[str, np.ndarray]:
        begun.append(start)
        return rows(start, stop)

    assert is_right(filled(folder, counting, **other))
    return begun


class DiedError(RuntimeError):
    """The process ends here."""


def dying(start: int, stop: int) -> dict[str, np.ndarray]:
    if start >= 12:
        raise DiedError
    return rows(start, stop)


@pytest.mark.parametrize(("seconds", "again"), [(0.0, [12, 16, 20]), (60.0, [0, 4, 8, 12, 16, 20])])
def test_what_the_index_does_not_name_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, again: list[int]
) -> None:
    monkeypatch.setattr(row_store, "SECONDS", seconds)
    with pytest.raises(DiedError):
        filled(tmp_path / "s", dying)
    assert computed(tmp_path / "s") == again
    assert computed(tmp_path / "s") == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-13])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "again"), [(cut, [20]), (change, [8]), (Path.unlink, [0, 4, 8, 12, 16, 20])]
)
def test_guarantee_bytes_that_changed_are_never_used(tmp_path: Path, damage: Any, again: list[int]) -> None:
    """As after a power cut, where the index may be on the disk before the rows are."""
    filled(tmp_path / "s")
    damage(tmp_path / "s" / "wide-000000.bin")
    assert computed(tmp_path / "s") == again


@pytest.mark.slow
@pytest.mark.planted
def test_planted_digests_that_nobody_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "s")
    change(tmp_path / "s" / "wide-000000.bin")
    monkeypatch.setattr(RowStore, "_is_whole", lambda self, number, start, stop: True)
    assert not is_right(filled(tmp_path / "s"))


@pytest.mark.parametrize("other", [{"key": "other"}, {"block": 5}])
def test_guarantee_rows_of_another_key_are_never_used(tmp_path: Path, other: dict[str, Any]) -> None:
    filled(tmp_path / "s")
    assert computed(tmp_path / "s", **other) == list(range(0, COUNT, other.get("block", BLOCK)))


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"key": "k", "block": 4}', '{"key": "k", "block": 4, "digests": 3}']
)
def test_a_damaged_index_is_that_of_something_else(tmp_path: Path, index: str) -> None:
    filled(tmp_path / "s")
    (tmp_path / "s" / INDEX).write_text(index)
    assert len(computed(tmp_path / "s")) == 6


def test_a_disk_without_room_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(row_store.shutil, "disk_usage", lambda folder: usage._replace(free=100))
    blocks: list[int] = []
    with pytest.raises(RunFolderError, match=r"the encodings need more than the 1e-07 GB that are free in "):
        filled(tmp_path / "s", lambda start, stop: blocks.append(start) or rows(start, stop))
    assert blocks == [0]
