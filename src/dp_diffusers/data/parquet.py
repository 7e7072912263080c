"""Images of parquet files, one file or all of a folder.

Guarantees that nothing is cached on disk and that a damaged file is named. May import pyarrow. Layout: that
of `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dp_diffusers.data.real_paths import require_distinct
from dp_diffusers.data.sources import RawImages, source
from dp_diffusers.data.tables import read_tables
from dp_diffusers.data.walking import is_hidden
from dp_diffusers.errors import DataError

_AT_ONCE = 1024  # rows


class ParquetTable:
    """A parquet file, from a path or from bytes in memory; see `tables.Table`."""

    def __init__(self, place: str, content: str | pa.Buffer) -> None:
        """Raises: `DataError` for anything but a whole parquet file."""
        self.place = place
        try:
            self._file = pq.ParquetFile(content if isinstance(content, str) else pa.BufferReader(content))
        except (pa.ArrowException, OSError) as error:
            message = f"{place}: not a parquet file, or a damaged one"
            raise DataError(message, hint="write or copy it again") from error
        self.schema = self._file.schema_arrow
        self.rows: int = self._file.metadata.num_rows

    def column(self, name: str) -> list[Any]:
        """Every value of a column."""
        values: list[Any] = self._file.read(columns=[name]).column(0).to_pylist()
        return values

    def batches(self, name: str) -> Iterator[list[Any]]:
        """The values of a column, some at a time."""
        for batch in self._file.iter_batches(batch_size=_AT_ONCE, columns=[name]):
            yield batch.column(0).to_pylist()


@source("parquet")
def read_parquet(path: Path, *, label: str | None, unit: str | None, caption: str | None) -> RawImages:
    """Images of a parquet file, or of all below a folder. `label`, `unit`, `caption`: columns, or None.

    Raises: `DataError` for a damaged or empty file, a column that is not there, null labels, ids or texts.
    """
    tables = [_open(file) for file in parquet_files(path)]
    return read_tables(str(path), tables, label=label, unit=unit, caption=caption)


def parquet_files(path: Path) -> list[Path]:
    """`path` itself, or the parquet files below a folder, sorted, hidden ones left out.

    Raises: `DataError` where there is none, or one under two names.
    """
    found = [path]
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*.parquet")) if not is_hidden(file, path)]
    if not found:
        raise DataError(f"no parquet file in {path}")
    if path.is_dir():
        require_distinct(path, (file.relative_to(path).as_posix() for file in found))
    return found


def _open(path: Path) -> ParquetTable:
    if not path.is_file():
        raise DataError(f"file not found: {path}")
    return ParquetTable(str(path), str(path))
