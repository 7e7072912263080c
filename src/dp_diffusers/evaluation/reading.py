"""Labelled images from disk for an evaluation: a parquet file, a folder of them, or an image folder.

Guarantees that labels of two sets mean the same: by class name where they share names, else by number. May
import numpy and the readers of `data` (PIL, pyarrow).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.decoding import Decoder
from dp_diffusers.data.labels import label_numbers
from dp_diffusers.data.sources import kind_of, open_source
from dp_diffusers.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """images uint8 [N, H, W, C], labels int64 [N], one name per class, and what was changed on the way in."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def numbered_as(self, names: tuple[str, ...]) -> LabelledImages:
        """The images of the classes in `names`, numbered in their order. Raises `DataError` for none."""
        own = self.class_names if set(self.class_names) & set(names) else names
        numbers = np.array([names.index(name) if name in names else -1 for name in own], np.int64)
        known = self.labels < len(numbers)
        labels = np.where(known, numbers[np.minimum(self.labels, len(numbers) - 1)], -1)
        kept = labels >= 0
        if not kept.any():
            raise DataError("no image has a class of the synthetic images", hint="compare the class names")
        images = self.images if kept.all() else self.images[kept]
        return LabelledImages(images=images, labels=labels[kept], class_names=names, notes=self.notes)


def read_images(path: str | Path, *, size: int | None = None, channels: int | None = None) -> LabelledImages:
    """Labelled images at `path`; `size` and `channels` None take those of the first image.

    A parquet file needs a column `label`; a folder holds parquet files at any depth, or a folder per class.
    Raises `DataError`.
    """
    place = Path(path)
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else []
    parts = [_read(file, size, channels) for file in files or [place]]
    if len({part.class_names for part in parts}) > 1:
        raise DataError(f"{place}: the parquet files differ in their classes")
    return LabelledImages(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        class_names=parts[0].class_names,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _read(place: Path, size: int | None, channels: int | None) -> LabelledImages:
    kind = kind_of(place)
    raw = open_source(kind, place, label="folder" if kind == "folder" else "label", unit=None)
    labels, names = label_numbers(raw, None)
    if labels is None or names is None:
        raise DataError(f"{place}: the images have no labels", hint="a folder per class, or a column `label`")
    decoder = Decoder(size=size, channels=channels, resize=None if size is None else "crop")
    images = decoder.decode(raw.encoded(), raw.count)
    notes = tuple(f"{place.name}: {note}" for note in (*raw.notes, *decoder.notes))
    return LabelledImages(images=images, labels=labels, class_names=names, notes=notes)
