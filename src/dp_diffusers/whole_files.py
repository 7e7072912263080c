"""Writing a file whole or not at all, whatever instant the process dies at.

Guarantee: under its name a file holds the old or the new content at every instant, and the new one for good
once the call returns. Imports the standard library only. Source: the usual write, fsync, rename, fsync of the
folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

_MACHINE: Final = secrets.token_hex(
    4
)  # processes of two machines on one file system may have the same number
_TEMPORARY: Final = re.compile(r".+\.(?P<process>\d+)-(?P<start>[0-9a-f]{8})\.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream for the new content of `path`, which takes its place when the block ends.

    Raises `OSError` (a full disk), and what the block raises, with `path` untouched.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8, line ends as they are. Raises `OSError` with `path` untouched."""
    with replacing(path) as stream:
        stream.write(text.encode())


def temporary_of(path: Path) -> Path:
    """Where this process writes before it renames; two processes never write into one file."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_MACHINE}.tmp")


def forget_unfinished(folder: Path) -> None:
    """Deletes what `replacing` left in `folder` when its process died; what a living one writes stays."""
    for path in folder.glob("*.tmp"):
        named = _TEMPORARY.fullmatch(path.name)
        if named is not None and not _is_written(int(named["process"]), named["start"]):
            path.unlink(missing_ok=True)


def _is_written(process: int, start: str) -> bool:
    """Whether the process that made a temporary may still write it; of another one of its number, never."""
    return start == _MACHINE if process == os.getpid() else is_alive(process)


def is_alive(process: int) -> bool:
    """Whether this machine may still run the process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
