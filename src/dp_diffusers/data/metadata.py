"""The columns of a folder of images: `metadata.csv`, whose rows name a file and say things about it.

Guarantees that each image has exactly one row and that a missing value is refused, never guessed. May import
the standard library. The layout is that of Hugging Face's ImageFolder: a column `file_name`, paths relative
to the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dp_diffusers.data.csv_tables import CsvTable, read_csv
from dp_diffusers.data.sources import no_column
from dp_diffusers.errors import DataError

METADATA = "metadata.csv"
FILE_NAME = "file_name"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The table of a folder."""

    table: CsvTable

    def column(self, kind: str, name: str, files: list[str]) -> list[str]:
        """One value for each of `files` (names relative to the folder).

        Raises `DataError` for an unknown column, a file without a row, a row without a file, a missing value,
        several ids in one cell.
        """
        if name not in self.table.columns:
            raise no_column(self.table.path, kind, name, self.table.columns)
        self._same_files(files)
        return self.table.values(kind, name, files)

    def _same_files(self, files: list[str]) -> None:
        path, rows = self.table.path, self.table.rows
        bare = next((file for file in files if file not in rows), None)
        if bare is not None:
            raise DataError(
                f"{path}: no row names the image {bare}",
                hint="file_name holds paths relative to the folder, as in normal/0001.png",
            )
        known = set(files)
        stray = next((file for file in rows if file not in known), None)
        if stray is not None:
            raise DataError(
                f"{path}: a row names no image of the folder: {stray}",
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
    return Metadata(table=read_csv(path, (FILE_NAME,)))
