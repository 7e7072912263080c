"""What would betray private images wherever it turned up: names, ids, bytes of their files, their pixels.

Guarantees: traces are chosen so that chance does not make them (distinctive text, windows of bytes that
vary), and they are kept in the run's private folder only. May import numpy; never torch. Memory: some 150
bytes for each image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from unicodedata import normalize

import numpy as np

from dp_diffusers.errors import RunFolderError
from dp_diffusers.whole_files import replacing

WINDOW = 16  # bytes
SHORTEST_TEXT = 6
_DIGITS = 6  # numbers up to a million stand anywhere
SHORTEST_CAPTION = 12  # `normal` or `chest x-ray` stands in texts that nobody's caption made
_LONGEST_CAPTION = 200
_DIGEST = 16
_FEWEST_CHANGES = 6  # of the 15 between neighbours in a window
_FEWEST_VALUES = 10  # among the bytes of a window of a file
_FEWEST_CHANGES_OF_AN_IMAGE = 16  # an empty picture is nobody's
_HEADER, _TRAILER = 48, 40  # bytes of a file that all of its kind share
_CHUNK = 4096
_ROW = re.compile(r", row \d+$")  # what `tables` calls an image: it has no file of its own


@dataclass(kw_only=True, repr=False)
class Traces:
    """names, ids, captions: texts. windows: uint8 `[W, 16]`, bytes of files and pixels.

    pictures: digests of images. counts: numbers of units and images. paths: where files lie. All of it is
    private.
    """

    names: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    captions: set[str] = field(default_factory=set)
    windows: np.ndarray = field(default_factory=lambda: np.zeros((0, WINDOW), np.uint8))
    pictures: set[bytes] = field(default_factory=set)
    counts: set[int] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    @classmethod
    def of_names(cls, names: Iterable[str], units: Iterable[object]) -> Traces:
        """Traces of names of images and ids of units; `watching` and `add_pixels` add the rest."""
        traces = cls()
        for name in names:
            traces.add_name(os.path.basename(name))
        traces.add_ids(units)
        return traces

    def watching(self, encoded: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """Passes encoded images on, (name, bytes) each, and notes names and two windows of their bytes."""
        found = []
        for name, data in encoded:
            if not _ROW.search(file := os.path.basename(name)):
                self.add_name(file)
            found += _windows_of_file(data)
            yield name, data
        self._add(np.frombuffer(b"".join(found), np.uint8).reshape(-1, WINDOW))

    def add_name(self, name: str) -> None:
        """A file's name, with its ending and without, if it is distinctive."""
        stem = name.partition(".")[0]
        self.names |= {text for text in (name, stem) if is_distinctive(stem) and is_distinctive(text)}

    def add_ids(self, units: Iterable[object]) -> None:
        """Ids of units, those that are distinctive, in both writings of Unicode; a tuple holds several."""
        for unit in set(units):
            people = unit if isinstance(unit, tuple) else (unit,)
            texts = [text for person in people for text in _writings(person) if is_distinctive(text)]
            self.ids |= {normalize(form, text) for text in texts for form in ("NFC", "NFD")}

    def add_captions(self, captions: Iterable[str]) -> None:
        """Texts of images, those that say more than a word or two would; of long ones how they begin."""
        found = (caption.strip()[:_LONGEST_CAPTION] for caption in captions)
        self.captions |= {text for text in found if len(text) >= SHORTEST_CAPTION}

    def add_pixels(self, images: np.ndarray) -> None:
        """uint8 `[N, H, W, C]` images: digests of all that are not empty, and windows of their pixels."""
        found: list[np.ndarray] = []
        for start in range(0, len(images), _CHUNK):
            part = np.ascontiguousarray(images[start : start + _CHUNK])
            telling = part[_is_telling(part)]
            if not len(telling):  # blank images say nothing that could be found again
                continue
            self.pictures |= {picture_digest(image) for image in telling}
            for layout, colours in _layouts(telling):
                found += [_windows_of_pixels(layout, colours), _windows_of_floats(layout, colours)]
        self._add(*found)

    def are_of(self, images: np.ndarray, units: int) -> bool | None:
        """Whether `add_pixels` saw these images, uint8 `[N, H, W, C]` of so many units, and no others.

        None where no picture was noted, so that it cannot be told. Order, labels and owners are not looked
        at, nor are images that are nearly blank.
        """
        if not self.pictures:
            return None
        if self.counts and self.counts != {len(images), units}:
            return False
        parts = (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))
        return self.pictures == {picture_digest(image) for part in parts for image in part[_is_telling(part)]}

    def save(self, path: Path) -> None:
        """Writes all of it to one file, whole or not at all."""
        texts = {
            "names": sorted(self.names),
            "ids": sorted(self.ids),
            "captions": sorted(self.captions),
            "paths": sorted(self.paths),
            "counts": sorted(self.counts),
        }
        pictures = np.frombuffer(b"".join(sorted(self.pictures)), np.uint8).reshape(-1, _DIGEST)
        with replacing(path) as stream:
            np.savez(
                stream,
                texts=np.frombuffer(json.dumps(texts).encode(), np.uint8),
                windows=self.windows,
                pictures=pictures,
            )

    @classmethod
    def load(cls, path: Path) -> Traces:
        """Reads what `save` wrote. Raises `RunFolderError` for a damaged file."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                texts = json.loads(arrays["texts"].tobytes())
                windows, pictures = arrays["windows"], arrays["pictures"]
        except Exception as error:
            raise RunFolderError(f"{path} is damaged", hint="delete it: the scan then knows less") from error
        return cls(
            names=set(texts["names"]),
            ids=set(texts["ids"]),
            captions=set(texts.get("captions", ())),  # a run of an earlier version noted none
            counts=set(texts["counts"]),
            paths=set(texts["paths"]),
            windows=windows,
            pictures={row.tobytes() for row in pictures},
        )

    def _add(self, *windows: np.ndarray) -> None:
        """Once for many: each time copies all that are there."""
        self.windows = np.concatenate([self.windows, *windows])


def is_distinctive(text: str) -> bool:
    """Whether a text is long enough and no number of six digits or less, so that chance does not make it.

    Long enough in UTF-8: a name of two or three characters is rare where an alphabet has thousands. Longer
    numbers that begin with zeros are those of records.
    """
    if text.isdecimal():
        return len(text) > _DIGITS and int(text) > 0
    return len(text.encode("utf-8", "surrogatepass")) >= SHORTEST_TEXT


def _writings(unit: object) -> set[str]:
    """An id as a text would have it: of 1234567.0, as pandas writes what had gaps once, also 1234567."""
    return {str(unit), str(int(unit))} if isinstance(unit, float) and unit.is_integer() else {str(unit)}


def _is_telling(images: np.ndarray) -> np.ndarray:
    """bool `[N]`: which of uint8 `[N, H, W, C]` images are not nearly of one colour."""
    flat = images.reshape(len(images), -1)
    changes = np.count_nonzero(flat[:, 1:] != flat[:, :-1], axis=1)
    found: np.ndarray = changes >= _FEWEST_CHANGES_OF_AN_IMAGE
    return found


def picture_digest(image: np.ndarray) -> bytes:
    """16 bytes that stand for a uint8 `[H, W, C]` image."""
    shape = "x".join(map(str, image.shape)).encode()
    return blake2b(shape + np.ascontiguousarray(image).tobytes(), digest_size=_DIGEST).digest()


def _windows_of_file(data: bytes) -> list[bytes]:
    """Two windows from the middle of an encoded image, where it is long enough to have one."""
    last = len(data) - _TRAILER - WINDOW
    places = (len(data) * 5 // 8, len(data) * 7 // 8)
    found = {data[at : at + WINDOW] for at in places if _HEADER <= at <= last}
    return [window for window in found if len(set(window)) >= _FEWEST_VALUES]


def _layouts(images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Pixels as they lie in memory, uint8 `[N, bytes]`, and how far apart two of one colour are.

    With colours last, the colours of one pixel differ from each other however plain the picture is.
    """
    colours = images.shape[-1]
    yield np.ascontiguousarray(images).reshape(len(images), -1), colours
    if colours > 1:
        yield np.ascontiguousarray(np.moveaxis(images, -1, 1)).reshape(len(images), -1), 1


def _windows_of_pixels(flat: np.ndarray, colours: int) -> np.ndarray:
    """Of each row of uint8 `[N, bytes]` the aligned window that varies most, if it varies enough."""
    return _most_varied(flat, WINDOW, _FEWEST_CHANGES, colours)


def _windows_of_floats(flat: np.ndarray, colours: int) -> np.ndarray:
    """Four neighbours of each row that all differ, as the float32 in [-1, 1] that a network takes."""
    four = _most_varied(flat, WINDOW // 4, WINDOW // 4 - 1, colours)
    return (four.astype(np.float32) / 127.5 - 1).view(np.uint8).reshape(-1, WINDOW)


def _most_varied(flat: np.ndarray, width: int, fewest: int, colours: int) -> np.ndarray:
    """uint8 `[≤ N, width]`: the aligned piece of each row with most changes, where there are `fewest`.

    They are counted between neighbours, and once more between values of one colour, of which there are fewer:
    a plain area in colour is no piece of anybody, since any picture may have it.
    """
    count, length = flat.shape
    pieces = flat[:, : length // width * width].reshape(count, -1, width)
    if not pieces.size:
        return np.zeros((0, width), np.uint8)
    changes = _changes(pieces, colours)
    changes[_changes(pieces, 1) < fewest] = -1
    least = fewest * (width - colours) // (width - 1)
    found: np.ndarray = pieces[np.arange(count), changes.argmax(axis=1)][changes.max(axis=1) >= least]
    return found


def _changes(pieces: np.ndarray, apart: int) -> np.ndarray:
    """int `[N, P]`: how many values of each piece differ from the one so far before them."""
    found: np.ndarray = np.count_nonzero(pieces[:, :, apart:] != pieces[:, :, :-apart], axis=2)
    return found
