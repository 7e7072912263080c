from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dp_diffusers import checkpoint
from dp_diffusers.errors import RunFolderError


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save_atomic({"step": 3, "weights": torch.arange(4.0)}, tmp_path / "state.pt")
    state = checkpoint.load(tmp_path / "state.pt")
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4.0))
    assert checkpoint.load(tmp_path / "other.pt") is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 torn"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        checkpoint.load(tmp_path / "state.pt")


def test_guarantee_a_failed_write_keeps_the_previous_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save_atomic({"step": 1}, path)

    def full_disk(state: Any, stream: Any) -> None:
        stream.write(b"half of a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_atomic({"step": 2}, path)
    monkeypatch.undo()
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_small_states_are_saved_every_step_and_large_ones_by_the_clock(tmp_path: Path) -> None:
    saved = []
    for limit, expected in ((2**20, 4), (16, 2)):
        path = tmp_path / f"{limit}.pt"
        count = 0

        def state() -> dict[str, Any]:
            nonlocal count
            count += 1
            return {"step": count}

        saver = checkpoint.Saver(path=path, state=state, seconds=1e9, every_step_below=limit)
        for _ in range(3):
            saver.maybe_save()
        saver.maybe_save(force=True)
        saved.append((count, expected))
    assert all(count == expected for count, expected in saved)
