"""Labelled images for an evaluation: of any kind of `data.sources`, or a folder of parquet files.

Guarantees that labels of two sets mean the same, as `class_numbers` tells it, and that pixels are decoded
once, into their place. May import numpy and the readers of `data` (PIL, pyarrow).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.decoding import Decoder, Resize
from dp_diffusers.data.dicom_pixels import Window
from dp_diffusers.data.labels import label_numbers
from dp_diffusers.data.metadata import METADATA
from dp_diffusers.data.pixel_room import in_memory
from dp_diffusers.data.sources import NoColumnError, RawImages, is_hub, kind_of, open_source
from dp_diffusers.data.walking import names_in_order
from dp_diffusers.drawing.images_out import EMPTY
from dp_diffusers.errors import DataError
from dp_diffusers.evaluation.class_numbers import listed, matched
from dp_diffusers.evaluation.places import files_of
from dp_diffusers.tenths import by_tenths

LABEL: Final = "label"  # the column, where nobody names another
ON_DISK_FROM: Final = 1 << 30  # bytes
TOLD_FROM: Final = 1000  # images
SQUARES: Final = "cut or pad the images to squares of one size first"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """images uint8 [N, H, W, C], labels int64 [N], one name per class, and what was changed on the way in."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def numbered_as(self, names: tuple[str, ...], called: str = "these images") -> LabelledImages:
        """The images of the classes in `names`, numbered in their order; see `class_numbers.matched`.

        called: what these images are, in a note or an error. Raises `DataError` for none.
        """
        if self.class_names == names:
            return self
        places, note = matched(self._named(), names, called)
        numbers = np.array(places, np.int64)
        known = self.labels < len(numbers)
        labels = np.where(known, numbers[np.minimum(self.labels, len(numbers) - 1)], -1)
        kept = labels >= 0
        if not kept.any():
            raise DataError(
                f"{called}: no image has a class of the synthetic images",
                hint=f"classes of {called}: {listed(self._named())}; synthetic classes: {listed(names)}",
            )
        images = self.images if kept.all() else self.images[kept]
        notes = self.notes if note is None else (*self.notes, note)
        return LabelledImages(images=images, labels=labels[kept], class_names=names, notes=notes)

    def _named(self) -> tuple[str, ...]:
        """The names of the classes; their numbers where there are none."""
        return self.class_names or tuple(map(str, range(int(self.labels.max()) + 1)))


class AsTheRun(TypedDict):
    """How a run reads its images, as `read_images` takes it: other images are compared with these."""

    own: tuple[str, ...]
    resize: Resize
    window: Window | None


def as_the_run(data: Mapping[str, Any]) -> AsTheRun:
    """By the section `data` of the run's recipe; empty for none, which leaves the usual reading."""
    label, window = data.get("label"), data.get("window")
    return {
        "own": () if label in (None, "auto") else (str(label),),
        "resize": "fit" if data.get("resize") == "fit" else "crop",
        "window": None if window is None else [float(number) for number in window],
    }


def read_images(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    on_disk: bool = False,
    progress: Callable[..., None] | None = None,
    label: str | None = None,
    own: Sequence[str] = (),
    resize: Resize = "crop",
    window: Window | None = None,
) -> LabelledImages:
    """Labelled images at `path`; `size` and `channels` None take those of the first image.

    label: where the labels are, as `data.label` of a recipe; None takes the first of the columns `own` that
    is there, else class folders of a folder (or its `metadata.csv`'s `label`), else the column `label`. A
    folder may hold parquet files at any depth; `hf://owner/name` is read from the Hub.
    resize: how images of another size become `size`; window: of DICOM images, see `Decoder`; without one it
    changes nothing. Where it did, or `resize` is `fit`, a note says so.
    on_disk: more than `ON_DISK_FROM` bytes of pixels go to an unnamed temporary file, from which the system
    reads what is needed; not for images that must stay where they are. Raises `DataError`.
    """
    sources = labelled_sources(path, label, own)
    decoder = Decoder(
        size=size,
        channels=channels,
        resize=None if size is None else resize,
        window=window,
        needs_dicom=False,
        squares=SQUARES,
        room=room_for if on_disk else in_memory,
    )
    count = sum(part.raw.count for part in sources)
    encoded = chain.from_iterable(part.raw.encoded() for part in sources)
    images = decoder.decode(_told(encoded, count, progress), count)
    notes = [f"{_called(part.file)}: {note}" for part in sources for note in part.raw.notes]
    notes += [f"{_called(path)}: {note}" for note in (*decoder.notes, *_windowed(decoder))]
    return LabelledImages(
        images=images,
        labels=np.concatenate([part.labels for part in sources]),
        class_names=sources[0].class_names,
        notes=tuple(dict.fromkeys(notes)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A file, a folder or a data set of the Hub, of labelled images, opened and not decoded.

    labels: int64 [N].
    """

    file: Path | str
    raw: RawImages
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def labelled_sources(place: str | Path, label: str | None, own: Sequence[str]) -> list[Source]:
    """What `read_images` decodes, in its order; label and own as there. Raises `DataError`."""
    files: list[Path | str] = [str(place)] if is_hub(place) else [*files_of(Path(place))]
    sources = []
    for file in files:
        raw = _opened(file, label, own)
        labels, names = _labels(file, raw)
        sources.append(Source(file=file, raw=raw, labels=labels, class_names=names))
    if len({part.class_names for part in sources}) > 1:
        raise DataError(f"{place}: the parquet files differ in their classes")
    return sources


def _called(place: str | Path) -> str:
    return str(place) if is_hub(place) else Path(place).name


def _windowed(decoder: Decoder) -> list[str]:
    if decoder.window is None or not decoder.windowed:
        return []
    center, width = decoder.window
    return [f"values of DICOM images are shown by the run's data.window: center {center:g}, width {width:g}"]


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 of `shape`: in memory, or where it is large in a file that is gone when nobody uses it."""
    if math.prod(shape) <= ON_DISK_FROM:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _told(
    encoded: Iterator[tuple[str, bytes]], count: int, progress: Callable[..., None] | None
) -> Iterator[tuple[str, bytes]]:
    """The same images; of `TOLD_FROM` and more `progress` is told, in tenths alone.

    The images may be private ones, whose number nobody may read off a screen.
    """
    if progress is None or count < TOLD_FROM:
        yield from encoded
        return
    done = by_tenths(lambda line: progress(message=line), "reading images")
    for place, item in enumerate(encoded, 1):
        yield item
        done(place / count)


def _opened(place: Path | str, label: str | None, own: Sequence[str]) -> RawImages:
    """By the column that is named, or by the first that is there. Raises `DataError` without any."""
    kind = kind_of(place)
    if label is not None:
        return open_source(kind, place, label=label, unit=None)
    of_folder = kind == "folder" and (Path(place) / METADATA).exists()
    for name in own if of_folder or kind != "folder" else ():
        if name == "folder" and kind != "dicom":  # no column: of other folders the usual place
            continue
        with suppress(NoColumnError):
            return open_source(kind, place, label=name, unit=None)
    usual = _usual(kind, place)
    raw = open_source(kind, place, label=usual, unit=None)
    return _with_empty_folders(raw, Path(place)) if (kind, usual) == ("folder", "folder") else raw


def _with_empty_folders(raw: RawImages, place: Path) -> RawImages:
    """A class without images is a class: its folder is there, as `drawing.images_out` leaves it."""
    folders = (item for item in place.iterdir() if item.is_dir() and not item.name.startswith("."))
    empty = {folder.name for folder in folders if (folder / EMPTY).is_file()}
    return replace(raw, class_names=names_in_order({*(raw.class_names or ()), *empty}))


def _usual(kind: str, place: Path | str) -> str:
    if kind != "folder":
        return LABEL
    flat = not any(item.is_dir() for item in Path(place).iterdir())
    return LABEL if flat and (Path(place) / METADATA).exists() else "folder"


def _labels(place: Path | str, raw: RawImages) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    labels, names = label_numbers(raw, None)
    if labels is None or names is None:
        raise DataError(f"{place}: the images have no labels", hint="a folder per class, or a column `label`")
    return labels, names
