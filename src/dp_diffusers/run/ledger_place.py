"""Where the ledger of some images lies unless one is named, and where another one of theirs may lie.

Guarantees that a ledger which nobody named is not begun where one lies beside what a link leads to or a
manifest lists, beside a folder around the images, or among the files of their folder; whoever names another
than theirs is told of it. No image is opened for it. May import where sources lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dp_diffusers.data.real_places import is_manifest, real_places
from dp_diffusers.data.sources import is_hub
from dp_diffusers.data.walking import DICOM, PICTURES
from dp_diffusers.errors import DataError, LedgerError

_ENDING: Final = ".ledger"
_IMAGES: Final = PICTURES | DICOM | {".parquet", ".pq", ".arrow"}


def default_ledger(data_path: str) -> str | None:
    """`images.parquet.ledger` beside `images.parquet`, `xrays.ledger` beside the folder `xrays/`.

    None for a data set of the Hub, beside which nothing can be written.
    """
    return None if is_hub(data_path) else str(data_path).rstrip("/\\") + _ENDING


def require_first(ledger: str, data_path: str | None) -> None:
    """Raises `LedgerError` where the default ledger of some images would begin beside another of theirs.

    `DataError` for a manifest that cannot be read.
    """
    if data_path is None or ledger != default_ledger(data_path):
        return
    other = next(_others(ledger, data_path), None)
    if other is not None:
        raise LedgerError(
            f"{other} is the ledger of images that these may be, and no run here is in it yet",
            hint="name it in budget.ledger; or, for other images, name a new one there",
        )


def other_ledger(ledger: str | None, data_path: str | None, *, follow: bool = True) -> str | None:
    """The line for whoever names another ledger than the images have: that theirs is there, by name.

    It is a fact, no refusal: benchmark data have a ledger for each question on purpose. follow: links and
    rows, too, for which folders are listed and a manifest is read.
    """
    if ledger is None or data_path is None or is_hub(data_path):
        return None
    own = {os.path.realpath(f"{place}{_ENDING}") for place in (_bare(data_path), os.path.realpath(data_path))}
    try:
        there = (Path(place) for place in sorted(own) if os.path.isfile(place))
        known = (place for place in there if str(place) != os.path.realpath(ledger))
        other = next(_others(ledger, data_path) if follow else known, None)
    except DataError:
        return None  # it is said when the images are opened
    if other is None:
        return None
    if os.path.realpath(other) in own:
        return f"these images have a ledger of their own, {other}: what it counts comes on top of this run's"
    return f"{other} is the ledger of images that these may be: what it counts comes on top of this run's"


def _others(ledger: str, data_path: str) -> Iterator[Path]:
    """Every ledger but this one that may be of the images, each once; those of no link and no row first."""
    known = {os.path.realpath(ledger)}
    given = Path(_bare(data_path))
    for place in (given, Path(os.path.realpath(given))):
        yield from _new(_around(place), known)
    files: set[str] = set()
    for end in real_places(given):
        if os.path.isdir(end):
            yield from _new(_around(Path(end)), known)
        elif is_manifest(given) or _may_be_image(end):
            files.add(end)
    yield from _new(_beside(files), known)


def _may_be_image(file: str) -> bool:
    """By its name alone; scanners and archives write DICOM under names that end like no kind of file."""
    ending = os.path.splitext(file)[1].lower()
    return ending in _IMAGES or ending == "" or ending[1:].isdecimal()


def _around(data: Path) -> Iterator[Path]:
    """Ledgers beside the images, beside each folder that they lie in, and in theirs."""
    yield from (Path(f"{place}{_ENDING}") for place in (data, *data.parents))
    yield from sorted(data.rglob(f"*{_ENDING}")) if data.is_dir() else []


def _beside(files: set[str]) -> Iterator[Path]:
    """Ledgers beside each folder around some files, by whatever name, and among them those of no others.

    Each folder is looked at once: the files are many, and lie in few.
    """
    folders = {Path(folder) for folder in set(map(os.path.dirname, files))}
    around = {parent for folder in folders for parent in (folder, *folder.parents)}
    yield from (Path(f"{folder}{_ENDING}") for folder in sorted(around, reverse=True))
    for folder in sorted(folders):
        yield from (found for found in sorted(folder.glob(f"*{_ENDING}")) if _may_count(found, files))


def _may_count(ledger: Path, files: set[str]) -> bool:
    """Whether a ledger may be that of some of these files: by what it is called after, if that is there."""
    owner = Path(str(ledger).removesuffix(_ENDING))
    if not owner.exists() or os.path.realpath(owner) in files:
        return True
    try:
        return not files.isdisjoint(real_places(owner))
    except DataError:
        return True  # a manifest that cannot be read may list them


def _new(ledgers: Iterator[Path], known: set[str]) -> Iterator[Path]:
    """Those that are there and not yet known, which they are from now on."""
    for ledger in ledgers:
        real = os.path.realpath(ledger) if ledger.is_file() else None
        if real is not None and real not in known:
            known.add(real)
            yield ledger


def _bare(data_path: str) -> str:
    return str(data_path).rstrip("/\\")
