"""Images of a folder: one folder per class, or flat without labels.

Guarantees a fixed order (sorted names), so that a resumed run sees the same units. May import the standard
library and PIL's list of suffixes. The layout is that of torchvision's and Hugging Face's ImageFolder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dp_diffusers.data.sources import RawImages, source
from dp_diffusers.errors import DataError, nearest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})


@source("folder")
def read_folder(path: Path, *, label: str | None, unit: str | None) -> RawImages:
    """Images below `path`. `label`: `folder` (the name of the class folder) or None.

    Raises: `DataError` for a missing or empty folder, a mixture of both layouts, or a unit column.
    """
    if not path.is_dir():
        raise DataError(f"folder not found: {path}", hint=_similar(path))
    if unit is not None:
        raise DataError(
            f"a folder has no unit column {unit!r}",
            hint="a parquet file with that column holds several per unit",
        )
    if label not in (None, "folder"):
        hint = "data.label: folder takes the class from the folder's name; null is no labels"
        raise DataError(f"a folder has no label column {label!r}", hint=hint)
    files = _flat(path) if label is None else _by_class(path)
    if not files:
        raise DataError(f"no images in {path}", hint=f"known kinds: {', '.join(sorted(SUFFIXES))}")

    def encoded() -> Iterator[tuple[str, bytes]]:
        for file, _ in files:
            yield str(file), _bytes(file)

    names = tuple(sorted({name for _, name in files}))
    labels = [name for _, name in files] if label else None
    return RawImages(count=len(files), encoded=encoded, labels=labels, class_names=names if label else None)


def _flat(path: Path) -> list[tuple[Path, str]]:
    return [(file, "") for file in sorted(path.rglob("*")) if _is_image(file)]


def _by_class(path: Path) -> list[tuple[Path, str]]:
    folders = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    loose = [item for item in path.iterdir() if _is_image(item)]
    if loose:
        hint = "one folder per class, or data.label: null for images without labels"
        raise DataError(f"{path}: {len(loose)} images lie outside the class folders", hint=hint)
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
