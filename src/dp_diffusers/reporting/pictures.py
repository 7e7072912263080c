"""Synthetic images for a page: the first of each class, as they lie in `release/images`.

Guarantees that only files below that folder are opened, that nothing is selected by its looks, and that all
pictures of a page together stay small. May import numpy, PIL and pyarrow. Large images are shrunk and stored
as JPEG, small ones are kept pixel by pixel as PNG.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from PIL import Image

from dp_diffusers.errors import VerificationError

MOST_CLASSES: Final = 24
OF_EACH: Final = 10
SMALL, LARGE = 48, 128  # sides in pixels: kept as they are up to the first, shrunk beyond the second

Labelled = tuple[int | None, bytes]


@dataclass(frozen=True, kw_only=True)
class ClassPictures:
    """name: of the class, None for images without one. sources: `data:` addresses of a few images."""

    name: str | None
    sources: tuple[str, ...]

    def alt(self, place: int) -> str:
        """What to read out in the place of image number `place`, from 1."""
        of_class = "" if self.name is None else f", class {self.name}"
        return f"synthetic image {place} of {len(self.sources)} shown{of_class}"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is shown of `count` images in `all_classes` classes. side: of an image, in pixels."""

    classes: tuple[ClassPictures, ...]
    count: int
    all_classes: int
    side: int

    @property
    def shown(self) -> int:
        """Number of images on the page."""
        return sum(len(part.sources) for part in self.classes)

    @property
    def enlarged(self) -> bool:
        """Whether an image is so small that its pixels are to be seen as squares."""
        return self.side <= SMALL

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def pictures_of(images: Path, names: Sequence[str] | None) -> Pictures | None:
    """The first images of each class in `release/images`; None where there are none.

    names: what the certificate calls the classes. Raises `VerificationError` for a list of images that leads
    out of the folder.
    """
    tables = sorted(images.rglob("*.parquet")) if images.is_dir() else []
    if not tables and not (images / "metadata.csv").is_file():
        return None
    found: dict[int | None, list[bytes]] = {}
    count = 0
    for table in tables:
        names = _names_in(table) or names
    for label, data in _in_tables(tables) if tables else _in_folder(images):
        count += 1
        kept = found.setdefault(label, [])
        if len(kept) < OF_EACH:
            kept.append(data)
    order = sorted(found, key=lambda label: -1 if label is None else label)
    classes = tuple(
        ClassPictures(name=_name(label, names), sources=tuple(map(_source, found[label])))
        for label in order[:MOST_CLASSES]
    )
    first = found[order[0]][0] if order else b""
    return (
        Pictures(classes=classes, count=count, all_classes=len(order), side=_side(first)) if order else None
    )


def _name(label: int | None, names: Sequence[str] | None) -> str | None:
    if label is None:
        return None
    return str(names[label]) if names is not None and 0 <= label < len(names) else str(label)


def _names_in(table: Path) -> list[str] | None:
    """The class names that a parquet file of ours carries."""
    import pyarrow.parquet as pq

    about = (pq.read_schema(table).metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(about).get("info", {}).get("features", {})
    return (features.get("label") or {}).get("names")


def _in_tables(tables: Sequence[Path]) -> Iterator[Labelled]:
    import pyarrow.parquet as pq

    for table in tables:
        file = pq.ParquetFile(table)
        columns = [name for name in ("image", "label") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                yield row.get("label"), row["image"]["bytes"]


def _in_folder(images: Path) -> Iterator[Labelled]:
    """Images in the order of metadata.csv; the bytes of those that a page may show."""
    seen: dict[int | None, int] = {}
    with (images / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            label = int(row["label"]) if row.get("label") else None
            seen[label] = seen.get(label, 0) + 1
            yield label, _bytes(images, row["file_name"]) if seen[label] <= OF_EACH else b""


def _bytes(images: Path, name: str) -> bytes:
    path = images / name
    if not path.resolve().is_relative_to(images.resolve()):
        raise VerificationError(f"metadata.csv names {name!r}, which lies outside {images}")
    return path.read_bytes()


def _side(data: bytes) -> int:
    return max(Image.open(io.BytesIO(data)).size)


def _source(data: bytes) -> str:
    """The `data:` address of an image: without what its file carries besides pixels."""
    image: Image.Image = Image.open(io.BytesIO(data))
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    small = max(image.size) <= SMALL
    image.thumbnail((LARGE, LARGE))
    stream = io.BytesIO()
    plain = Image.frombytes(image.mode, image.size, image.tobytes())
    if small:
        plain.save(stream, format="PNG", optimize=True)
    else:
        plain.save(stream, format="JPEG", quality=80)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"


def one_of_each(pictures: Pictures | None) -> list[tuple[str, str]]:
    """(source, what to read out) of the first image of each class."""
    classes = () if pictures is None else pictures.classes
    return [(part.sources[0], part.alt(1)) for part in islice(classes, OF_EACH)]
