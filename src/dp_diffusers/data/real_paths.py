"""Where files lie once every link on the way is followed, and whether one is there under two names.

Guarantees that two names of one file are told without opening it; copies and hard links are other files. May
import the standard library. A folder is followed once, whatever the number of its files: of 100,000 files
most are no links, and lie in few folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from dp_diffusers.errors import DataError

KEEP_ONE: Final = "an image has one owner: keep one of the two"
_HOPS: Final = 8  # links to links; the rest is left to `os.path.realpath`, which knows of rings


def real_paths(files: Iterable[str | Path]) -> Iterator[str]:
    """Of each file what `os.path.realpath` says, whether or not it is there."""
    known: dict[str, str] = {}
    return (_followed(os.fspath(file), known) for file in files)


def require_distinct(path: Path, names: Iterable[str], *, hint: str = KEEP_ONE) -> None:
    """Raises `DataError` for one file under two names, links too: each would be an image with an owner.

    path: the source. names: of its files, relative to the folder that it is or lies in.
    """
    names = list(names)
    folder = path if path.is_dir() else path.parent
    seen: dict[str, str] = {}
    for name, real in zip(names, real_paths(os.path.join(folder, name) for name in names)):
        if real in seen:
            raise DataError(f"{path}: {seen[real]} and {name} are one file", hint=hint)
        seen[real] = name


def _followed(file: str, known: dict[str, str]) -> str:
    """known: what `os.path.realpath` says of folders, filled in here."""
    way = file
    for _ in range(_HOPS):
        folder, name = os.path.split(way)
        if name in ("", os.curdir, os.pardir):
            break
        if folder not in known:
            known[folder] = os.path.realpath(folder)
        here = os.path.join(known[folder], name)
        try:
            way = os.path.join(known[folder], os.readlink(here))
        except OSError:  # no link, or nothing there
            return here
    return os.path.realpath(file)
