"""When memory runs out: how that is told from other errors, and what is dropped before less is tried.

Guarantees: an error of any other kind passes through as it is; what is tried again begins from nothing, once
the caller's `undo` has thrown away what was there. May import torch and the errors.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from dp_diffusers.errors import DeviceMemoryError, DPDiffusersError
from dp_diffusers.runtime.device_memory import give_back

TEXTS: Final = (
    "can't allocate memory",  # torch's allocator on a CPU
    "not enough memory",  # the same on Windows
    "could not create a memory",  # oneDNN's convolutions on a CPU
    "out of memory",  # the driver of a GPU, where torch does not ask its own allocator
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)
NO_ROOM: Final = (
    "another runtime.device or machine, runtime.dtype: bfloat16, or a strategy that trains less; the same "
    "command goes on from the last checkpoint"
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from or after, says that memory ran out."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, DPDiffusersError):  # a refusal of ours is about something else
            return False
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and _tells(str(error)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _tells(text: str) -> bool:
    """oneDNN says of a primitive that it found no room for what it says of none else."""
    return any(known in text for known in TEXTS) or text.endswith("could not create a primitive")


def fits(work: Callable[[], None], undo: Callable[[], None]) -> bool:
    """Does the work; False where memory ran out, after `undo` and with the memory free again.

    Raises whatever else the work raises, without `undo`.
    """
    if _done(work):
        return True
    undo()
    gc.collect()  # the frames of the error are gone; what they held in cycles goes here
    give_back()
    return False


def _done(work: Callable[[], None]) -> bool:
    try:
        work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False  # which lets go of the error, and of the tensors in its frames
    return True


def halved(rows: int) -> int:
    """Half of a number of rows. Raises `DeviceMemoryError` for a single one."""
    if rows <= 1:
        raise DeviceMemoryError("out of memory with one row at a time", hint=NO_ROOM)
    return rows // 2


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turns an error of memory into `DeviceMemoryError`; sizes may be private, so its text is not kept."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError("out of memory", hint=NO_ROOM) from error
