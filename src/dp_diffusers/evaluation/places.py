"""Paths that an evaluation is given: there before anything is decoded; of a run its images, never its safe.

Guarantees that nothing below the private folder of a run is taken for images. May import the kinds of sources
and the names in a run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from dp_diffusers.data.sources import is_hub, kind_of
from dp_diffusers.drawing.kept_images import FOLDER
from dp_diffusers.errors import DataError
from dp_diffusers.run.folder import RUN, RunFolder

Given = TypeVar("Given")


def require_there(*given: object) -> None:
    """Raises `DataError` for a path, also one in a list, where no images can be; arrays pass."""
    for one in given:
        if isinstance(one, str | Path):
            kind_of(one)
        elif isinstance(one, list | tuple):
            require_there(*(part for part in one if isinstance(part, str | Path)))


def images_of(given: Given) -> Given | Path:
    """The images of a run where `given` is a run folder or its release, else what was given.

    Raises `DataError` for a run without images.
    """
    if not isinstance(given, str | Path) or is_hub(given):
        return given
    place = Path(given)
    release = RunFolder(place).release if is_run(place) else place
    if not (is_run(place) or (place / "certificate.json").is_file()):
        return given
    found = release / FOLDER
    if not found.is_dir():
        raise DataError(f"{place} holds no images yet", hint="`dp-diffusers generate RUN` makes them")
    return found


def is_run(place: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    folder = RunFolder(place)
    return (folder.release / "certificate.json").is_file() or (folder.private / RUN).is_file()


def files_of(place: Path) -> list[Path]:
    """The parquet files at any depth below a folder, or `place` itself.

    Raises `DataError` where one of them lies in the private folder of a run, or where `place` holds one.
    """
    files = (sorted(place.rglob("*.parquet")) if place.is_dir() else []) or [place]
    for file in [RunFolder(place).private, *files]:
        around = (file, *file.absolute().parents, file.resolve(), *file.resolve().parents)
        if any(map(_is_safe, around)):
            raise DataError(
                f"{place} reaches into the private folder of a run: {file}",
                hint="name the images alone: RUN/release/images",
            )
    return files


def _is_safe(folder: Path) -> bool:
    """Whether a folder is the private one of a run; others may be called so and hold a reference."""
    return folder == RunFolder(folder.parent).private and (folder / RUN).is_file()
