"""A file is whole under its name at every instant, and on disk before and after it gets the name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers import checkpoint, whole_files
from dp_diffusers.data.traces import Traces
from dp_diffusers.drawing.image_parts import Parts
from dp_diffusers.privacy.files import write_whole
from dp_diffusers.run.folder import RunFolder


def _part(folder: RunFolder) -> None:
    Parts(folder, {"count": 1}, size=1).add(0, np.zeros((1, 2, 2, 1), np.uint8))


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda folder: checkpoint.save_atomic({"a": torch.ones(3)}, folder / "x"),
    "traces": lambda folder: Traces(names={"some name"}).save(folder / "x"),
    "certificate": lambda folder: write_whole(folder / "x", "text\r\n"),
    "document": lambda folder: RunFolder(folder.parent).write("x", {"a": 1}),
    "part": lambda folder: _part(RunFolder(folder.parent)),
}


@pytest.fixture
def private(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    return tmp_path / "private"


@pytest.mark.parametrize("writer", WRITERS)
def test_guarantee_content_is_on_disk_before_the_name_and_the_name_before_the_end(
    writer: str, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def noting(name: str, call: Any) -> Any:
        return lambda *facts: (done.append(name), call(*facts))[1]

    monkeypatch.setattr(os, "fsync", noting("sync", sync))
    monkeypatch.setattr(os, "replace", noting("replace", replace))
    WRITERS[writer](private)
    assert done
    assert done == ["sync", "replace", "sync"] * (len(done) // 3)  # of each file that it writes


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_guarantee_a_failure_leaves_the_old_content_alone(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x"
    whole_files.write_text(path, "old\r\n")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        whole_files.write_text(path, "new")
    assert path.read_bytes() == b"old\r\n"
    assert list(tmp_path.iterdir()) == [path]
