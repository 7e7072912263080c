"""Where decoded pixels lie: in memory, or, where they are many, in an unnamed file of a safe folder.

Guarantee: the file has no name and is gone with the process, however that ends; a disk without room for it is
an `OSError` before the first pixel, never a signal in the middle. May import numpy; never torch.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import numpy as np

IN_MEMORY: Final = 2**31  # bytes of pixels: 170,000 colour images of 64 x 64, or 2,700 of 512 x 512
_ZEROS: Final = bytes(2**20)

Room = Callable[[tuple[int, ...]], np.ndarray]


def in_memory(shape: tuple[int, ...]) -> np.ndarray:
    """An array in memory, whatever its size."""
    return np.empty(shape, np.uint8)


def room_in(safe: Path | None) -> Room:
    """Makes uint8 arrays. safe: a folder as private as the pixels; without one all lie in memory."""
    if safe is None:
        return in_memory

    def room(shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape)
        if size <= IN_MEMORY:
            return in_memory(shape)
        with tempfile.TemporaryFile(dir=safe) as file:
            _take_room(file, size)
            return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))

    return room


def _take_room(file: IO[bytes], size: int) -> None:
    """Makes a file as large on the disk itself. Raises `OSError` where there is no room."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, len(_ZEROS)):  # macOS and Windows have no such call
        file.write(_ZEROS[: size - start])
    file.flush()
