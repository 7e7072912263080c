"""Public images kept apart from private ones: by where they lie, and by what they show.

Guarantees: where they lie is told from public files and the name `data.path` alone, which is never opened; no
message says which private image was met. May import numpy and the sources; never torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.real_places import is_manifest, real_places
from dp_diffusers.data.sources import is_hub, kind_of, open_source
from dp_diffusers.data.traces import Traces, picture_digest
from dp_diffusers.errors import ParameterError

BOTH: Final = 2  # windows that `Traces` takes of a file: one alone may be a table that all of its kind share


def require_apart(key: str, public: str | Path, private: str | Path, *, hint: str) -> None:
    """Raises `ParameterError` where the images at `public` lie where those at `private` do, or lead there.

    key: the setting that names them. A folder stands for all below it, a manifest at `private` for its folder
    too, a data set of the Hub for all its splits. Links in a public folder, and what a public manifest lists,
    are followed to their ends. Copies and hard links are not seen: see `Shown`.
    """
    if is_hub(public) or is_hub(private):
        meets = is_hub(public) and is_hub(private) and _same_on_the_hub(str(public), str(private))
    else:
        meets = _meets(Path(public), Path(private))
    if meets:
        further = f"; the manifest {Path(private).name} stands for its whole folder"
        raise ParameterError(
            f"{key} {public} is where the private images are",
            hint=hint + (further if is_manifest(Path(private)) else ""),
        )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What public images show, to be looked for among private ones.

    pictures: digests of their pixels, as the model takes them; empty pictures (of one colour) are nobody's.
    files: pieces of the bytes of each file that is long enough, which no cut and no window changes.
    """

    pictures: frozenset[bytes]
    files: frozenset[tuple[bytes, ...]]

    @classmethod
    def by(cls, path: str, images: np.ndarray) -> Shown:
        """What the public files at `path` show, of which `images` (uint8 `[N, H, W, C]`) were made.

        Those of a data set of the Hub are not fetched again for their bytes.
        """
        files = () if is_hub(path) else _files(path)
        return cls(pictures=frozenset(_digests(images)), files=frozenset(files))

    @classmethod
    def by_files(cls, path: str | None, images: np.ndarray) -> Shown:
        """As `by`, for a folder that may hold parquet files at any depth; None for images without files."""
        place = None if path is None or is_hub(path) else Path(path)
        below = sorted(place.rglob("*.parquet")) if place is not None and place.is_dir() else []
        parts = [str(file) for file in below] or ([] if place is None else [str(place)])
        files = frozenset(file for part in parts for file in _files(part))
        return cls(pictures=frozenset(_digests(images)), files=files)

    def meets(self, data: PrivateImages) -> bool:
        """Whether any of it is a private image, pixel for pixel or by the bytes of its file."""
        if any(digest in self.pictures for digest in _digests(data.images)):
            return True
        return self.among(frozenset(), data.traces.windows)

    def among(self, pictures: Set[bytes], windows: np.ndarray) -> bool:
        """Whether any of it has one of these digests, or both its windows among these: uint8 `[W, 16]`."""
        known = {row.tobytes() for row in windows} if self.files else set()
        return not self.pictures.isdisjoint(pictures) or any(known.issuperset(file) for file in self.files)


def _digests(images: np.ndarray) -> Iterator[bytes]:
    """Of each image that is not of one colour."""
    return (picture_digest(image) for image in images if (image != image[:1, :1]).any())


def _files(path: str) -> Iterator[tuple[bytes, ...]]:
    """Of each public file the windows that `Traces` notes of a private one, where it has both."""
    for image in open_source(kind_of(path), path, label=None, unit=None).encoded():
        traces = Traces()
        list(traces.watching([image]))
        if len(traces.windows) == BOTH:
            yield tuple(row.tobytes() for row in traces.windows)


def _same_on_the_hub(public: str, private: str) -> bool:
    """Who may see a data set of the Hub may see all its splits. Raises `DataError` for what is no name."""
    from dp_diffusers.data.hub import parsed

    return parsed(public).name.casefold() == parsed(private).name.casefold()


def _meets(public: Path, private: Path) -> bool:
    own = _real(private)
    if _overlap(_real(public), own):
        return True
    roots = [own, _real(private.parent)] if is_manifest(private) else [own]
    return any(_overlap(place, root) for place in map(Path, real_places(public)) for root in roots)


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _overlap(one: Path, other: Path) -> bool:
    """Whether one is, or lies in, the other: folders are read with all that lies below them."""
    return one.is_relative_to(other) or other.is_relative_to(one)
