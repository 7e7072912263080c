"""Pixels that are too many for memory: in an unnamed file of the safe, and the same as in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_diffusers.data import pixel_room
from dp_diffusers.data.pixel_room import room_in
from dp_diffusers.data.private_images import PrivateImages


def base_of(array: Any) -> Any:
    while getattr(array, "base", None) is not None and not isinstance(array, np.memmap):
        array = array.base
    return array


@pytest.mark.parametrize("most", [30 * 64, 30 * 64 - 1])
def test_many_pixels_lie_in_a_file_without_a_name(
    tiny_parquet: Path, tiny_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(pixel_room, "IN_MEMORY", most)
    safe = tmp_path / "safe"
    safe.mkdir()
    data = PrivateImages.open(tiny_parquet, label="label", safe=safe)
    assert isinstance(base_of(data.images), np.memmap) == (most < 30 * 64)
    assert np.array_equal(data.images, tiny_images[0])
    assert not list(safe.iterdir())


def test_without_a_safe_all_pixels_stay_in_memory(
    tiny_parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_room, "IN_MEMORY", 0)
    assert not isinstance(base_of(PrivateImages.open(tiny_parquet, label="label").images), np.memmap)


def test_a_full_disk_is_an_error_before_the_first_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pixel_room, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        room_in(tmp_path)((2, 8, 8, 1))


def test_a_system_without_fallocate_writes_the_room_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_room, "IN_MEMORY", 0)
    monkeypatch.setattr(pixel_room, "_ZEROS", bytes(100))
    monkeypatch.delattr(os, "posix_fallocate")
    pixels = room_in(tmp_path)((2, 8, 8, 1))
    assert pixels.shape == (2, 8, 8, 1)
    pixels[:] = 7
    assert not list(tmp_path.iterdir())
