"""The columns of a folder of images: `metadata.csv`, whose rows name a file and say things about it.

Guarantees that each image has exactly one row and that a missing value is refused, never guessed. May import
the standard library. The layout is that of Hugging Face's ImageFolder: a column `file_name`, paths relative
to the folder.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from dp_diffusers.data.sources import is_missing, no_column
from dp_diffusers.data.unit_ids import joined, several_in_one
from dp_diffusers.errors import DataError, counted

METADATA = "metadata.csv"
FILE_NAME = "file_name"
Line: TypeAlias = tuple[int, list[str]]  # number in the file, cells


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The table of a folder: for each file name its row, and the columns besides `file_name`."""

    path: Path
    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]

    def column(self, kind: str, name: str, files: list[str]) -> list[str]:
        """One value for each of `files` (names relative to the folder).

        Raises `DataError` for an unknown column, a file without a row, a row without a file, a missing value,
        several ids in one cell.
        """
        if name not in self.columns:
            raise no_column(self.path, kind, name, self.columns)
        self._same_files(files)
        values = [self.rows[file].get(name, "") for file in files]
        # a class may well be called `none`, an owner may not
        empty = is_missing if kind == "unit" else (lambda value: not value)
        missing = [file for file, value in zip(files, values) if empty(value)]
        if missing:
            raise DataError(
                f"{self.path}: {kind} column {name!r} is empty for {counted(len(missing), 'image')}, "
                f"first {missing[0]}",
                hint="fill in the value, or remove the image and its row",
            )
        several = [file for file, value in zip(files, values) if kind == "unit" and joined(value)]
        if several:
            raise several_in_one(self.path, name, several[0], len(several))
        return values

    def _same_files(self, files: list[str]) -> None:
        bare = [file for file in files if file not in self.rows]
        if bare:
            raise DataError(
                f"{self.path}: {counted(len(bare), 'image has', 'images have')} no row, first {bare[0]}",
                hint="file_name holds paths relative to the folder, as in normal/0001.png",
            )
        known = set(files)
        stray = [file for file in self.rows if file not in known]
        if stray:
            rows = counted(len(stray), "row names", "rows name")
            raise DataError(
                f"{self.path}: {rows} no image of the folder, first {stray[0]}",
                hint="remove the row, or put the image in its place",
            )


def read_metadata(folder: Path, kind: str, name: str) -> Metadata:
    """The table of `folder`, read for its column `name`. Raises `DataError` where it is absent or damaged."""
    path = folder / METADATA
    if not path.is_file():
        raise DataError(
            f"{folder} has no {kind} column {name!r}: it holds no {METADATA}",
            hint=f"{METADATA} with the columns {FILE_NAME} and {name}, one row per image; or a parquet file",
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {_reason(error)}", hint="a UTF-8 file of comma-separated values"
        ) from error
    return Metadata(path=path, columns=_columns(path, lines), rows=_rows(path, lines))


def _reason(error: Exception) -> str:
    """Why a file cannot be read; the bytes of a damaged one are not repeated."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return (error.strerror or "it cannot be opened") if isinstance(error, OSError) else str(error)


def _columns(path: Path, lines: list[Line]) -> tuple[str, ...]:
    header = lines[0][1] if lines else []
    if FILE_NAME not in header:
        raise no_column(
            path, "image", FILE_NAME, header, f"its first line names the columns, {FILE_NAME} too"
        )
    if len(set(header)) < len(header):
        raise DataError(
            f"{path}: a column is there twice among {', '.join(header)}", hint="rename or remove one of them"
        )
    return tuple(name for name in header if name != FILE_NAME)


def _rows(path: Path, lines: list[Line]) -> dict[str, dict[str, str]]:
    header, rows = lines[0][1], {}
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:{number}: expected {len(header)} values, got {len(cells)}",
                hint="a value with a comma in it stands in quotes",
            )
        row = dict(zip(header, cells))
        name = PurePosixPath(row[FILE_NAME]).as_posix()
        if name in rows:
            raise DataError(f"{path}: {name} has two rows", hint="an image has one owner: keep one row")
        rows[name] = row
    return rows
