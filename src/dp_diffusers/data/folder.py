"""Images of a folder: one folder per class, or any layout with a table of labels and owners beside it.

Guarantees a fixed order (sorted names), so that a resumed run sees the same units. May import the standard
library. The layouts are those of Hugging Face's ImageFolder: class folders, and `metadata.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dp_diffusers.data.metadata import Metadata, read_metadata
from dp_diffusers.data.sources import RawImages, source
from dp_diffusers.errors import DataError, counted, nearest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})


@source("folder")
def read_folder(path: Path, *, label: str | None, unit: str | None) -> RawImages:
    """Images below `path`. `label`: `folder` (the name of the class folder), a column of `metadata.csv`, or
    None.

    `unit`: a column of `metadata.csv`, or None where each image is a unit.
    Raises: `DataError` for a missing or empty folder, a mixture of both layouts, a column or a row that is
        not there.
    """
    if not path.is_dir():
        raise DataError(f"folder not found: {path}", hint=_similar(path))
    files = _by_class(path) if label == "folder" else _flat(path)
    if not files:
        raise DataError(f"no images in {path}", hint=f"known kinds: {', '.join(sorted(SUFFIXES))}")
    names = [file.relative_to(path).as_posix() for file, _ in files]
    found = _columns(path, names, label, unit)

    def encoded() -> Iterator[tuple[str, bytes]]:
        for file, _ in files:
            yield str(file), _bytes(file)

    labels, class_names = _labels(files, label, found.get("label"))
    units: list[object] | None = list(found["unit"]) if "unit" in found else None
    return RawImages(
        count=len(files),
        encoded=encoded,
        labels=labels,
        typed="label" not in found,
        class_names=class_names,
        units=units,
    )


def _columns(path: Path, names: list[str], label: str | None, unit: str | None) -> dict[str, list[str]]:
    """What `metadata.csv` says of the files `names`, for `label` and `unit` where they name a column."""
    asked = {} if unit is None else {"unit": unit}
    if label not in (None, "folder"):
        asked["label"] = str(label)
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
    return [name for _, name in files], _in_order({name for _, name in files})


def _in_order(names: set[str]) -> tuple[str, ...]:
    """Sorted; as numbers where all are whole numbers, so that 10 comes after 9."""
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def _flat(path: Path) -> list[tuple[Path, str]]:
    return [(file, "") for file in sorted(path.rglob("*")) if _is_image(file)]


def _by_class(path: Path) -> list[tuple[Path, str]]:
    folders = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    loose = [item for item in path.iterdir() if _is_image(item)]
    if loose:
        hint = "one folder per class, or data.label: null for images without labels"
        lie = counted(len(loose), "image lies", "images lie")
        raise DataError(f"{path}: {lie} outside the class folders", hint=hint)
    return [
        (file, folder.name) for folder in folders for file in sorted(folder.rglob("*")) if _is_image(file)
    ]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"image cannot be read: {file}: {error.strerror}") from error


def _similar(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    close = nearest(path.name, (item.name for item in path.parent.iterdir() if item.is_dir()))
    return f"did you mean {str(path.parent / close)!r}?" if close else None
