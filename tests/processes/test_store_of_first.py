"""Of several processes the first writes what is encoded, the others read it, and never write or delete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.errors import RunFolderError
from dp_diffusers.loop import row_store
from dp_diffusers.loop.row_store import RowStore


def store(folder: Path, key: str = "k") -> RowStore:
    return RowStore(folder=folder, key=key, count=10, block=4)


def squares(start: int, stop: int) -> dict[str, np.ndarray]:
    return {"square": np.arange(start, stop, dtype=np.float32)[:, None] ** 2}


def not_called(start: int, stop: int) -> dict[str, np.ndarray]:
    raise AssertionError("it computed")


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two processes, which does not wait long."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(row_store, "SHOWS_AFTER", 0.2)


def test_guarantee_another_process_reads_and_does_not_write(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store(tmp_path / "s").fill(squares)
    before = files(tmp_path / "s")
    request.getfixturevalue("second")
    other = store(tmp_path / "s")
    other.fill(not_called)
    assert other.take("square", np.array([3, 9]))[:, 0].tolist() == [9.0, 81.0]
    assert files(tmp_path / "s") == before


def test_guarantee_what_is_not_seen_whole_is_refused_and_left(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store(tmp_path / "s").fill(squares)
    request.getfixturevalue("second")
    before = files(tmp_path / "s")
    with pytest.raises(RunFolderError, match="does not see"):
        store(tmp_path / "s", key="another").fill(not_called)
    with pytest.raises(RunFolderError, match="does not see"):
        store(tmp_path / "nowhere").fill(not_called)
    assert files(tmp_path / "s") == before
    assert not (tmp_path / "nowhere").exists()
