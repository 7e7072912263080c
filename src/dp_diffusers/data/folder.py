"""Images of a folder: one folder per class, or any layout with a table of labels and owners beside it.

Guarantees a fixed order (sorted names), so that a resumed run sees the same units. May import the standard
library. The layouts are those of Hugging Face's ImageFolder: class folders, and `metadata.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dp_diffusers.data.metadata import Metadata, read_metadata
from dp_diffusers.data.sources import RawImages, source
from dp_diffusers.data.walking import (
    PICTURES,
    by_class,
    file_bytes,
    flat,
    is_picture,
    names_in_order,
    require_folder,
    telling_folders,
)
from dp_diffusers.errors import DataError


@source("folder")
def read_folder(path: Path, *, label: str | None, unit: str | None, caption: str | None) -> RawImages:
    """Images below `path`. `label`: `folder` (the name of the class folder), a column of `metadata.csv`, or
    None.

    `unit`, `caption`: columns of `metadata.csv`; without `unit` each image is a unit.
    Raises: `DataError` for a missing or empty folder, a mixture of both layouts, a column or a row that is
        not there, a value that is missing.
    """
    require_folder(path)
    files = by_class(path, is_picture) if label == "folder" else flat(path, is_picture)
    if not files:
        raise DataError(f"no images in {path}", hint=f"known kinds: {', '.join(sorted(PICTURES))}")
    names = [file.relative_to(path).as_posix() for file, _ in files]
    asked = {"label": None if label == "folder" else label, "unit": unit, "caption": caption}
    found = _columns(path, names, {kind: name for kind, name in asked.items() if name is not None})

    def encoded() -> Iterator[tuple[str, bytes]]:
        for file, _ in files:
            yield str(file), file_bytes(file)

    labels, class_names = _labels(files, label, found.get("label"))
    units: list[object] | None = list(found["unit"]) if "unit" in found else None
    return RawImages(
        count=len(files),
        encoded=encoded,
        labels=labels,
        typed="label" not in found,
        class_names=class_names,
        units=units,
        captions=found.get("caption"),
        ids=telling_folders(names),
    )


def _columns(path: Path, names: list[str], asked: dict[str, str]) -> dict[str, list[str]]:
    """What `metadata.csv` says of the files `names`: kind → column."""
    table: Metadata | None = None
    found: dict[str, list[str]] = {}
    for kind, name in asked.items():
        table = table or read_metadata(path, kind, name)
        found[kind] = table.column(kind, name, names)
    return found


def _labels(
    files: list[tuple[Path, str]], label: str | None, column: list[str] | None
) -> tuple[list[str] | None, tuple[str, ...] | None]:
    """Labels and declared class names: from the column, from the folders, or none."""
    if column is not None:
        return column, None
    if label is None:
        return None, None
    return [name for _, name in files], names_in_order({name for _, name in files})
