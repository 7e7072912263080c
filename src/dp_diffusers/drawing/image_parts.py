"""Images made so far, in parts of a fixed size, which several processes may make between them.

Guarantees:
- a part is there whole or not at all, and one that was damaged counts as not made;
- two processes make the same part only where the file system knows no locks, and then they make the same;
- a process that dies gives up its part at that instant, and what it finished stays for the next.
May import numpy and the standard library. A part is claimed by locking one byte of one file, which the
operating system unlocks when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.whole_files import replacing, write_text

PARTS: Final = "images.partial"
_LOCKS: Final = "locks"
_HELD: Final = (errno.EACCES, errno.EAGAIN)


class GoneError(Exception):
    """The parts were taken away: whoever puts images together is done, or makes others."""


def drawn_for(request: Mapping[str, Any]) -> int:
    """How many images are drawn for a request: all that it keeps, or several for each."""
    return int(request["count"]) * int(request.get("candidates", 1))


class Parts:
    """The parts of one request, in `private/`; part `n` holds images `n * size` and on.

    size: images in a part. weights: hashes of what they are drawn by. Parts of another request, another size
    or other weights lie in a folder of their own. Raises `GoneError` where that is taken away meanwhile.
    """

    def __init__(
        self,
        folder: RunFolder,
        request: Mapping[str, Any],
        *,
        size: int,
        weights: Mapping[str, str] | None = None,
    ) -> None:
        self._all = folder.private / PARTS
        note = {"request": dict(request), "size": size, "weights": dict(weights or {})}
        self._folder = self._all / fingerprint(note)[:16]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(self._folder / "request.json", json.dumps(note, sort_keys=True) + "\n")
        except FileNotFoundError as error:
            raise GoneError from error
        self.count: Final = drawn_for(request)
        self.size: Final = size
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def images_of(self, number: int) -> range:
        """Which images a part holds."""
        return range(number * self.size, min((number + 1) * self.size, self.count))

    def has(self, number: int) -> bool:
        """Whether a part is there, with as many images as it should have."""
        if number not in self._seen and self._is_whole(number):
            self._seen.add(number)
        return number in self._seen

    def missing(self) -> list[int]:
        """The parts that are not there."""
        return [number for number in range(len(self)) if not self.has(number)]

    @property
    def made(self) -> int:
        """Number of images that were there when last looked for."""
        return sum(len(self.images_of(number)) for number in self._seen)

    def add(self, number: int, images: np.ndarray) -> None:
        """Keeps uint8 `[n, H, W, C]` images. Raises `GoneError` where the folder was taken away."""
        try:
            with replacing(self._path(number)) as stream:
                np.save(stream, images)
        except FileNotFoundError as error:
            raise GoneError from error
        self._seen.add(number)

    @contextlib.contextmanager
    def claimed(self, number: int) -> Iterator[bool]:
        """Whether no other process is making the part, nor will until the block ends.

        A process holds one claim at a time: closing the file gives up all that it holds. Raises `GoneError`.
        """
        try:
            stream = (self._folder / _LOCKS).open("ab")
        except FileNotFoundError as error:
            raise GoneError from error
        with stream:
            yield _locked(stream, number)

    def images(self) -> np.ndarray:
        """All images, uint8 `[count, H, W, C]`, once no part is missing."""
        first = np.load(self._path(0))
        whole = np.empty((self.count, *first.shape[1:]), np.uint8)
        for number in range(len(self)):
            places = self.images_of(number)
            whole[places.start : places.stop] = np.load(self._path(number))
        return whole

    def abandon(self) -> None:
        """Takes back what making this object left, unless there is a part: another call goes on with it."""
        if len(self.missing()) < len(self):
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others lie beside them
            self._all.rmdir()

    def drop_others(self) -> None:
        """Deletes the parts of other requests."""
        for path in self._all.iterdir():
            if path != self._folder:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.npy"

    def _is_whole(self, number: int) -> bool:
        try:
            found = np.load(self._path(number), mmap_mode="r")
        except (ValueError, EOFError, OSError):
            return False
        return found.ndim == 4 and len(found) == len(self.images_of(number))


def clear_parts(folder: RunFolder) -> None:
    """Deletes the parts of every request."""
    shutil.rmtree(folder.private / PARTS, ignore_errors=True)


def _locked(stream: IO[bytes], number: int) -> bool:
    """Locks byte `number` of a file until it is closed; whether no other process has it locked.

    Where the file system knows no locks nobody has: at worst a part is made twice.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        return True
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError as error:
        return error.errno not in _HELD
    return True
