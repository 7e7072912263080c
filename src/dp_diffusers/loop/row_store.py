"""Rows that cost much to compute, kept in files: memory-mapped, in shards, gone on with after a kill.

Guarantees: a block of rows whose bytes are not the ones that were written, and the rows of another key, are
never used; which files are there says how far the work came, never which rows were asked for. May import
numpy. Where the rows are private the folder is too: whoever gives it keeps it in the safe.

Of several processes the first alone writes; the others wait until they see what it wrote.
Nothing is synced but the index of digests. What a power cut loses shows by its digest, and is computed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from dp_diffusers.errors import RunFolderError
from dp_diffusers.processes.ranks import ranks_of_environment
from dp_diffusers.whole_files import write_text

INDEX: Final = "index.json"
SHARD_BYTES: Final = 2**30  # of a file
SECONDS: Final = 2.0  # of work that a kill loses at most, besides a block
SHOWS_AFTER: Final = 60.0  # seconds: a network file system may keep what it knew of a folder for so long

Block = Mapping[str, np.ndarray]
Compute = Callable[[int, int], Block]


@dataclass(kw_only=True)
class RowStore:
    """`count` rows, each of one entry in every column. `fill` comes before `take`.

    key: what the rows are made of, and how. block: rows that are computed together.
    """

    folder: Path
    key: str
    count: int
    block: int
    _columns: dict[str, Column] = field(default_factory=dict, init=False)
    _digests: list[str] = field(default_factory=list, init=False)
    _noted: float = field(default=0.0, init=False)

    def fill(self, compute: Compute, done: Callable[[float], None] = lambda share: None) -> None:
        """Computes what is missing. compute: the rows `start` to `stop`, by column. done: told how far it is.

        Of several processes only the first, before the others call it. Raises `RunFolderError` where the disk
        has no room for it, or where another process does not see all of it; `OSError` for one that fails.
        """
        if not ranks_of_environment().first:
            self._wait_for_first()
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open()
        self._noted = time.monotonic()
        for number, start in enumerate(range(0, self.count, self.block)):
            stop = min(start + self.block, self.count)
            if not self._is_whole(number, start, stop):
                self._write(number, start, compute(start, stop))
            done(stop / self.count)
        self._note()

    def take(self, name: str, index: np.ndarray) -> np.ndarray:
        """`[R, ...]`: rows of a column, a copy. index: int64 `[R]`."""
        return self._columns[name].take(index)

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self._columns)

    def _open(self) -> None:
        """Goes on with the files of an earlier process, or begins again where they are of something else."""
        if not self._opened():
            shutil.rmtree(self.folder)
            self.folder.mkdir(mode=0o700)

    def _opened(self) -> bool:
        """Reads the index; false where it is not there, damaged or of something else."""
        self._digests, self._columns = [], {}
        try:
            index = json.loads((self.folder / INDEX).read_text())
            if index["key"] == self.key and index["block"] == self.block:
                self._digests = [str(digest) for digest in index["digests"]]
                for name, (kind, shape) in index["columns"].items():
                    self._add_column(name, np.dtype(kind), tuple(shape))
                return True
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._digests, self._columns = [], {}
        return False

    def _wait_for_first(self) -> None:
        deadline = time.monotonic() + SHOWS_AFTER
        while not (self._opened() and self._all_whole()):
            if time.monotonic() > deadline:
                raise RunFolderError(
                    f"this process does not see in {self.folder} what the first process has encoded",
                    hint="give --out on a file system that all machines share",
                )
            time.sleep(0.1)

    def _all_whole(self) -> bool:
        starts = range(0, self.count, self.block)
        return all(
            self._is_whole(number, start, min(start + self.block, self.count))
            for number, start in enumerate(starts)
        )

    def _add_column(self, name: str, kind: np.dtype, shape: tuple[int, ...]) -> None:
        self._columns[name] = Column(
            folder=self.folder, name=name, kind=kind, shape=shape, count=self.count, block=self.block
        )

    def _is_whole(self, number: int, start: int, stop: int) -> bool:
        if number >= len(self._digests):
            return False
        rows = {name: column.read(start, stop) for name, column in self._columns.items()}
        return _digest(rows) == self._digests[number]

    def _write(self, number: int, start: int, rows: Block) -> None:
        if not self._columns:
            for name, values in rows.items():
                self._add_column(name, values.dtype, values.shape[1:])
            self._require_room()
        for name, values in rows.items():
            self._columns[name].write(start, values)
        self._digests[number : number + 1] = [_digest(rows)]
        if time.monotonic() - self._noted >= SECONDS:
            self._note()

    def _require_room(self) -> None:
        needed = sum(column.row_bytes for column in self._columns.values()) * self.count
        free = shutil.disk_usage(self.folder).free
        if needed > free:  # how much that is would tell how many images there are
            raise RunFolderError(
                f"the encodings need more than the {free / 1e9:.3g} GB that are free in {self.folder}",
                hint="give another --out, on a larger disk",
            )

    def _note(self) -> None:
        columns = {name: (column.kind.str, column.shape) for name, column in self._columns.items()}
        document = {"key": self.key, "block": self.block, "columns": columns, "digests": self._digests}
        write_text(self.folder / INDEX, json.dumps(document) + "\n")
        self._noted = time.monotonic()


@dataclass(kw_only=True)
class Column:
    """One array `[count, *shape]` of dtype `kind`, cut into files of whole blocks."""

    folder: Path
    name: str
    kind: np.dtype
    shape: tuple[int, ...]
    count: int
    block: int
    _maps: dict[int, np.ndarray] = field(default_factory=dict, init=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.kind.itemsize

    @property
    def per_shard(self) -> int:
        """Rows of a file, all but the last."""
        return max(1, SHARD_BYTES // max(1, self.row_bytes * self.block)) * self.block

    def write(self, start: int, values: np.ndarray) -> None:
        """Puts rows in their place in a file: an ordinary write, so that a full disk is an `OSError`."""
        shard, first = divmod(start, self.per_shard)
        path = self._path(shard)
        with path.open("r+b" if path.exists() else "w+b") as stream:
            stream.seek(first * self.row_bytes)
            stream.write(np.ascontiguousarray(values, self.kind).data.cast("B"))

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows of a block as they are in the file, fewer where it was cut."""
        shard, first = divmod(start, self.per_shard)
        size = (stop - start) * self.row_bytes
        found = b""
        if (path := self._path(shard)).exists():
            with path.open("rb") as stream:
                stream.seek(first * self.row_bytes)
                found = stream.read(size)
        return np.frombuffer(found, np.uint8)

    def take(self, index: np.ndarray) -> np.ndarray:
        """`[R, ...]`: a copy of these rows, file by file."""
        shard, row = np.divmod(index, self.per_shard)
        taken = np.empty((len(index), *self.shape), self.kind)
        for number in np.unique(shard).tolist():
            here = shard == number
            taken[here] = self._mapped(number)[row[here]]
        return taken

    def _mapped(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            rows = min(self.per_shard, self.count - shard * self.per_shard)
            mapped = np.memmap(self._path(shard), self.kind, "r", shape=(rows, *self.shape))
            self._maps[shard] = np.asarray(mapped)
        return self._maps[shard]

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.name}-{shard:06d}.bin"


def _digest(rows: Block) -> str:
    digest = hashlib.sha256()
    for name in sorted(rows):
        digest.update(np.ascontiguousarray(rows[name]).tobytes())
    return digest.hexdigest()


def forget(folder: Path) -> None:
    """Deletes a store, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)
