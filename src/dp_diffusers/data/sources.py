"""Where images come from: one function per kind of source, in one lazy table.

Guarantees that an image which cannot be read is named and that no byte is copied to a cache: files are read
with PIL and pyarrow directly. May import numpy, PIL and pyarrow; never torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from dp_diffusers.errors import DataError, nearest, unknown_name


@dataclass(kw_only=True)
class RawImages:
    """What a source yields before decoding, `count` images long.

    encoded: makes an iterator over (name for errors, encoded bytes).
    labels: per image, integers or text, or None. typed: False where the source knows text alone, and whole
    numbers may be meant. class_names: names that the source itself declares.
    units: an id per image, or a tuple of ids (distinct, sorted) where an image has several owners; None where
    an image is a unit.
    names: what the images are called where that is no part of a path: private, noted so that they are not
    released.
    """

    count: int
    encoded: Callable[[], Iterator[tuple[str, bytes]]]
    labels: list[int] | list[str] | None = None
    typed: bool = True
    class_names: tuple[str, ...] | None = None
    units: list[object] | None = None
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# How tables write that a value is not there.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "none", "null"})

Source = Callable[..., RawImages]

# kind → module that registers it: listed without being imported
SOURCES: dict[str, str] = {
    "folder": "dp_diffusers.data.folder",
    "parquet": "dp_diffusers.data.parquet",
}
_REGISTERED: dict[str, Source] = {}


def source(kind: str) -> Callable[[Source], Source]:
    """Registers `function(path, label=, unit=) -> RawImages` under a name of `SOURCES`."""

    def register(function: Source) -> Source:
        _REGISTERED[kind] = function
        return function

    return register


def open_source(kind: str, path: str | Path, *, label: str | None, unit: str | None) -> RawImages:
    """Opens a source by kind. Raises: `DataError`; `ParameterError` for an unknown kind."""
    if kind not in SOURCES:
        raise unknown_name("data source", kind, SOURCES)
    import_module(SOURCES[kind])
    return _REGISTERED[kind](Path(path), label=label, unit=unit)


def default_label(kind: str) -> str:
    """Where labels are if nobody says: the class folders of a folder, the column `label` of parquet files."""
    return "label" if kind == "parquet" else "folder"


def is_missing(value: object) -> bool:
    """Whether a cell holds no value: null, NaN, or text that stands for it.

    Rows of unknown owner would otherwise become one owner called `nan`, who is nobody.
    """
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING
    return value is None or value != value


def no_column(place: Path, kind: str, name: str, known: Sequence[str], hint: str | None = None) -> DataError:
    """The error for a column that is not there; it names those that are."""
    close = None if hint else nearest(name, known)
    hint = f"did you mean {close!r}?" if close else hint or "name one of these, or add it"
    return DataError(f"{place}: no {kind} column {name!r} among {', '.join(known) or 'none'}", hint=hint)


def kind_of(path: str | Path, *, hint: str = "give a folder or a parquet file") -> str:
    """`folder` or `parquet`, by what lies at `path`. Raises: `DataError` if nothing usable does.

    hint: what to say where nothing lies at `path`.
    """
    place = Path(path)
    if place.is_dir():
        return "parquet" if _holds_parquet(place) else "folder"
    if not place.exists():
        raise DataError(f"images not found: {place}", hint=hint)
    if place.suffix.lower() in {".parquet", ".pq"}:
        return "parquet"
    raise DataError(
        f"expected a folder or a .parquet file, got {place}",
        hint="a parquet file with a column `image`, or a folder of images",
    )


def _holds_parquet(folder: Path) -> bool:
    """A folder as Hugging Face writes it: parquet files in it or in its `data/`."""
    return any(any(place.glob("*.parquet")) for place in (folder, folder / "data"))
