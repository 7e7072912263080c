"""What results of a study were made from, by what is in it: the base's weights and the reference's images.

Guarantees that a path whose contents were changed is another one, and that a copy elsewhere is the same. May
import torch and diffusers through the base, and the readers of `data`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

from dp_diffusers.data.real_places import is_manifest
from dp_diffusers.data.sources import is_hub
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.evaluation.reading import labelled_sources


@cache
def sha256_of_base(path: str) -> str:
    """The fingerprint of a base, opened once until the cache is cleared. Raises `ModelError`."""
    found = load_base(path).sha256
    assert found is not None
    return found


def sha256_of_images(path: str, own: Sequence[str] = ()) -> str:
    """sha256 of the files of labelled images as they lie there, of their labels and of class names.

    Whatever `evaluation.reading.read_images` opens, by the labels that it takes, of the columns `own` too.
    Read again where a size or a time of a file differs; a manifest always, whose images lie elsewhere; a
    data set of the Hub once. Not decoded: an image that cannot be is not met here. Raises `DataError`.
    """
    if is_hub(path):
        return _remembered(path, tuple(own), ())
    place = Path(path)
    lists_others = place.is_file() and is_manifest(place)
    return _digest(place, own) if lists_others else _remembered(place, tuple(own), tuple(_stamps(place)))


def _stamps(place: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size in bytes and time of change of each file there."""
    files = [place] if place.is_file() else []
    for folder, _, names in os.walk(place, followlinks=True):
        files += [Path(folder, name) for name in names]
    for file in sorted(files):
        if file.exists():  # else a link to nothing
            found = file.stat()
            yield str(file), found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _remembered(place: Path | str, own: tuple[str, ...], _: tuple[tuple[str, int, int], ...]) -> str:
    return _digest(place, own)


def _digest(place: Path | str, own: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in labelled_sources(place, None, own):
        raw = part.raw
        digest.update(json.dumps([raw.count, raw.class_names, raw.labels], default=str).encode())
        for _, data in raw.encoded():
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()
