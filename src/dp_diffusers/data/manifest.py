"""Images that a manifest lists: a table of separated values, one row with a path for each image.

Guarantees the order of the rows, one row for each image, and that a value which is missing is refused. May
import the standard library. Paths are relative to the manifest; pictures and DICOM files may be mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dp_diffusers.data.csv_tables import read_csv
from dp_diffusers.data.real_paths import require_distinct
from dp_diffusers.data.sources import RawImages, source
from dp_diffusers.data.walking import file_bytes, telling_folders
from dp_diffusers.errors import DataError

IMAGE_COLUMNS = ("path", "file_name")


@source("csv")
def read_manifest(path: Path, *, label: str | None, unit: str | None, caption: str | None) -> RawImages:
    """Images that the `.csv` or `.tsv` file at `path` lists in its column `path` (or `file_name`).

    `label`, `unit`, `caption`: columns, or None. Raises: `DataError` for a damaged or empty table, a column
    that is not there, a value that is missing, an image with two rows; an image that is not there once it is
    read.
    """
    if not path.is_file():
        raise DataError(f"file not found: {path}", hint="paths are relative to the recipe's folder")
    table = read_csv(path, IMAGE_COLUMNS)
    images = list(table.rows)
    if not images:
        raise DataError(f"no images in {path}", hint="it has no rows")
    asked = {"label": label, "unit": unit, "caption": caption}
    found = {kind: table.values(kind, name, images) for kind, name in asked.items() if name is not None}

    def encoded() -> Iterator[tuple[str, bytes]]:
        for name in images:
            file = path.parent / name
            yield str(file), file_bytes(file)

    require_distinct(path, images, hint="an image has one owner: keep one row")
    units: list[object] | None = list(found["unit"]) if "unit" in found else None
    return RawImages(
        count=len(images),
        encoded=encoded,
        labels=found.get("label"),
        typed=False,
        units=units,
        captions=found.get("caption"),
        ids=telling_folders(images),
    )
