"""Where the images of a source lie: the ends of its links, and the files that its manifest lists.

Guarantees that links are followed to their ends, a ring of them once, and that no image is opened: folders
are listed, and a manifest is read. May import the standard library and the sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dp_diffusers.data.csv_tables import read_csv
from dp_diffusers.data.manifest import IMAGE_COLUMNS
from dp_diffusers.data.real_paths import real_paths

_MANIFESTS: Final = frozenset({".csv", ".tsv"})


def real_places(source: Path) -> Iterator[str]:
    """Where images lie that are files of their own; a parquet file holds its images itself, and yields none.

    Of a folder itself, which stands for all below it, then where links below it lead; of a manifest each
    file. Raises `DataError` for a manifest that cannot be read.
    """
    if source.is_dir():
        yield from _folder_and_links(source)
    elif is_manifest(source) and source.is_file():
        yield from real_paths(source.parent / name for name in read_csv(source, IMAGE_COLUMNS).rows)


def is_manifest(path: Path) -> bool:
    """Whether the name is that of a manifest."""
    return path.suffix.lower() in _MANIFESTS


def _seen(names: list[str]) -> list[str]:
    """Those that a source reads: hidden ones are not."""
    return [name for name in names if not name.startswith(".")]


def _folder_and_links(folder: Path) -> Iterator[str]:
    """The folder, then where links below it lead: each before what lies behind it is listed."""
    yield os.path.realpath(folder)
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:], names = _seen(folders), _seen(names)
        entries = (os.path.join(here, name) for name in [*folders, *names])
        yield from real_paths(entry for entry in entries if os.path.islink(entry))
