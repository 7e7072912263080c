"""A table of separated values that names images: one row for each of them, every cell of it text.

Guarantees that each image has one row, that a missing value is refused, never guessed, and that the bytes of
a damaged file are not repeated. May import the standard library. The format is RFC 4180, with commas or tabs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from dp_diffusers.data.sources import is_missing, no_column
from dp_diffusers.data.unit_ids import require_single, same_id
from dp_diffusers.errors import DataError

Line: TypeAlias = tuple[int, list[str]]  # number in the file, cells


@dataclass(frozen=True, kw_only=True)
class CsvTable:
    """A table: for each image, in the order of the file, its row; and the columns besides the image's."""

    path: Path
    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]

    def values(self, kind: str, name: str, images: Sequence[str]) -> list[str]:
        """One value of the column `name` for each of `images`.

        kind: `label`, `unit` or `caption`. Raises: `DataError` for an unknown column, a missing value,
        several ids or unseen characters in one cell.
        """
        if name not in self.columns:
            raise no_column(self.path, kind, name, self.columns)
        values = [self.rows[image].get(name, "") for image in images]
        # a class may well be called `none`, an owner may not
        empty = (lambda value: not value) if kind == "label" else is_missing
        missing = next((image for image, value in zip(images, values) if empty(value)), None)
        if missing is not None:
            raise DataError(
                f"{self.path}: {kind} column {name!r} is empty for {missing}",
                hint="fill in the value, or remove the image and its row",
            )
        if kind != "unit":
            return values
        require_single(self.path, name, [[value] for value in values], lambda row: f"for {images[row]}")
        return [same_id(value) for value in values]


def read_csv(path: Path, image_columns: Sequence[str]) -> CsvTable:
    """The table in `path`; the first of `image_columns` that it has names the images.

    Raises: `DataError` for a file that cannot be read, a line too long or too short, an image with two rows.
    """
    lines = _lines(path)
    header = lines[0][1] if lines else []
    image = next((name for name in image_columns if name in header), None)
    if image is None:
        hint = f"its first line names the columns; call that of the images {' or '.join(image_columns)}"
        if len(header) == 1 and any(mark in header[0] for mark in ";|\t"):
            hint = "separate the columns by commas, or by tabs in a .tsv"
        raise no_column(path, "image", image_columns[0], header, hint)
    if len(set(header)) < len(header):
        raise DataError(
            f"{path}: a column is there twice among {', '.join(header)}", hint="rename or remove one of them"
        )
    columns = tuple(name for name in header if name != image)
    return CsvTable(path=path, columns=columns, rows=_rows(path, image, lines))


def _lines(path: Path) -> list[Line]:
    tabs = path.suffix.lower() == ".tsv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if tabs else ",", strict=True)
            return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {_reason(error)}",
            hint=f"a UTF-8 file of {'tab' if tabs else 'comma'}-separated values",
        ) from error


def _reason(error: Exception) -> str:
    """Why a file cannot be read; the bytes of a damaged one are not repeated."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return (error.strerror or "it cannot be opened") if isinstance(error, OSError) else str(error)


def _rows(path: Path, image: str, lines: list[Line]) -> dict[str, dict[str, str]]:
    header, rows = lines[0][1], {}
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:{number}: expected {len(header)} values, got {len(cells)}",
                hint="a value with a comma in it stands in quotes",
            )
        row = dict(zip(header, cells))
        name = PurePosixPath(row[image]).as_posix() if row[image] else ""
        if name == "":
            raise DataError(f"{path}:{number}: no image in column {image!r}", hint="remove the row")
        if name in rows:
            raise DataError(f"{path}: {name} has two rows", hint="an image has one owner: keep one row")
        rows[name] = row
    return rows
