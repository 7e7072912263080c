"""The files of a folder of images: flat or one folder per class, pictures or DICOM.

Guarantees a fixed order (sorted names), so that a resumed run sees the same units; hidden files are not seen,
nor is what lies in hidden folders: copies and previews there would be units of their own. So would two names
of one file: a link beside what it leads to is refused. May import the standard library. A DICOM file is known
by its ending, or by its mark where it has none (DICOM PS3.10, section 7.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath

from dp_diffusers.data.real_paths import require_distinct
from dp_diffusers.errors import DataError, nearest

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
DICOM = frozenset({".dcm", ".dicom", ".ima"})
_INDEX = "dicomdir"  # lists the files of a disc and is none
_MARK_AT, _MARK = 128, b"DICM"

Member = Callable[[Path], bool]


def is_picture(file: Path) -> bool:
    """Whether the name is that of a picture."""
    return file.suffix.lower() in PICTURES and not file.name.startswith(".") and file.is_file()


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM: by its name, or by its mark where the name ends like no kind of file."""
    if file.name.startswith(".") or file.name.lower() == _INDEX:
        return False
    if file.suffix.lower() in DICOM:
        return file.is_file()
    # systems that export images call them by a number, or by an identifier such as 1.2.840.4711
    unnamed = file.suffix == "" or file.suffix[1:].isdecimal()
    return unnamed and file.is_file() and _is_marked(file)


def is_dicom_data(data: bytes) -> bool:
    """Whether bytes are those of a DICOM file."""
    return data[_MARK_AT : _MARK_AT + len(_MARK)] == _MARK


def is_hidden(file: Path, path: Path) -> bool:
    """Whether a part of the way from the source at `path` begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(path).parts)


def holds_dicom(folder: Path) -> bool:
    """Whether any file below `folder` is DICOM."""
    return _holds(folder, is_dicom)


def holds_pictures(folder: Path) -> bool:
    """Whether any file below `folder` is a picture."""
    return _holds(folder, is_picture)


def flat(path: Path, belongs: Member) -> list[tuple[Path, str]]:
    """Every file below `path` that `belongs`, with no class. Raises: `DataError` for one under two names."""
    return _distinct(path, [(file, "") for file in _files_of(path, path, belongs)])


def by_class(path: Path, belongs: Member) -> list[tuple[Path, str]]:
    """Every file that `belongs`, with the name of its class folder.

    Raises: `DataError` for one outside, or one under two names.
    """
    folders = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    if any(belongs(item) for item in path.iterdir()):
        hint = "one folder per class, or data.label: null for images without labels"
        raise DataError(f"{path}: an image lies outside the class folders", hint=hint)
    found = [(file, folder.name) for folder in folders for file in _files_of(folder, path, belongs)]
    return _distinct(path, found)


def names_in_order(names: set[str]) -> tuple[str, ...]:
    """Sorted; as numbers where all are whole numbers, so that 10 comes after 9."""
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def telling_folders(names: Iterable[str]) -> list[str]:
    """Folders that may be called like people: those below the source whose names hold a digit.

    names: of files, relative to the source. `images` and `train` are everywhere and point at nobody.
    """
    parents = {PurePath(name).parent for name in names}
    return sorted({part for parent in parents for part in parent.parts if any(map(str.isdecimal, part))})


def require_folder(path: Path) -> None:
    """Raises: `DataError` where `path` is no folder, with a name that is close if nothing is there."""
    if path.is_file():
        raise DataError(
            f"{path} is a file, not a folder", hint="in Python, `PrivateImages.open` tells by the path"
        )
    if not path.is_dir():
        raise DataError(f"folder not found: {path}", hint=_similar(path))


def file_bytes(file: Path) -> bytes:
    """The whole file. Raises: `DataError` naming it."""
    try:
        return file.read_bytes()
    except OSError as error:
        hint = "the file is there and readable where its path says" if file.exists() else None
        raise DataError(
            f"image cannot be read: {file}: {error.strerror}", hint=hint or "put it there, or remove its row"
        ) from error


def _holds(folder: Path, belongs: Member) -> bool:
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return any(not is_hidden(file, folder) and belongs(file) for file in found)


def _files_of(folder: Path, path: Path, belongs: Member) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if not is_hidden(file, path) and belongs(file)]


def _distinct(path: Path, files: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    require_distinct(path, (file.relative_to(path).as_posix() for file, _ in files))
    return files


def _is_marked(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return is_dicom_data(stream.read(_MARK_AT + len(_MARK)))
    except OSError:
        return False


def _similar(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    close = nearest(path.name, (item.name for item in path.parent.iterdir() if item.is_dir()))
    return f"did you mean {str(path.parent / close)!r}?" if close else None
