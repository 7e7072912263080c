"""Where images come from: one function per kind of source, in one lazy table.

Guarantees that an image which cannot be read is named and that no byte is copied to a cache: files are read
with PIL, pyarrow and pydicom directly. May import the standard library, and its sources numpy, PIL, pyarrow,
pydicom and fsspec's files of the Hub; never torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final

from dp_diffusers.data.walking import holds_dicom, holds_pictures
from dp_diffusers.errors import DataError, nearest, unknown_name


@dataclass(kw_only=True)
class RawImages:
    """What a source yields before decoding, `count` images long.

    encoded: makes an iterator over (name for errors, encoded bytes).
    labels: per image, integers or text, or None. typed: False where the source knows text alone, and whole
    numbers may be meant. class_names: names that the source itself declares.
    units: an id per image, or a tuple of ids (distinct, sorted) where an image has several owners; None where
    an image is a unit. captions: a text per image, private, or None.
    names: what the images are called where that is no part of a path; ids: other words of the source that
    name people. Both are private, noted so that they are not released.
    """

    count: int
    encoded: Callable[[], Iterator[tuple[str, bytes]]]
    labels: list[int] | list[str] | None = None
    typed: bool = True
    class_names: tuple[str, ...] | None = None
    units: list[object] | None = None
    captions: list[str] | None = None
    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# How tables write that a value is not there.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "none", "null"})

Source = Callable[..., RawImages]

# kind → module that registers it: listed without being imported
SOURCES: dict[str, str] = {
    "csv": "dp_diffusers.data.manifest",
    "dicom": "dp_diffusers.data.dicom",
    "folder": "dp_diffusers.data.folder",
    "hf": "dp_diffusers.data.hf",
    "parquet": "dp_diffusers.data.parquet",
}
_REGISTERED: dict[str, Source] = {}

HUB: Final = "hf://"
FROM_RECIPE: Final = "paths are relative to the recipe's folder"  # a hint
# where labels are if nobody says: a column, the class folders, or nowhere (folders of DICOM name people)
_LABELS: dict[str, str | None] = {"folder": "folder", "dicom": None}
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
_KINDS = "a folder, a parquet file, a manifest (.csv, .tsv) or hf://owner/name"


def source(kind: str) -> Callable[[Source], Source]:
    """Registers `function(path, label=, unit=, caption=) -> RawImages` under a name of `SOURCES`."""

    def register(function: Source) -> Source:
        _REGISTERED[kind] = function
        return function

    return register


def open_source(
    kind: str, path: str | Path, *, label: str | None, unit: str | None, caption: str | None = None
) -> RawImages:
    """Opens a source by kind; label, unit and caption are columns. Raises: `DataError`; `ParameterError` for
    an unknown kind."""
    if kind not in SOURCES:
        raise unknown_name("data source", kind, SOURCES)
    import_module(SOURCES[kind])
    place = path if is_hub(path) else Path(path)
    return _REGISTERED[kind](place, label=label, unit=unit, caption=caption)


def default_label(kind: str) -> str | None:
    """Where labels are if nobody says: class folders of a folder, nowhere in DICOM, else a column `label`."""
    return _LABELS.get(kind, "label")


def is_missing(value: object) -> bool:
    """Whether a cell holds no value: null, NaN, or text that stands for it.

    Rows of unknown owner would otherwise become one owner called `nan`, who is nobody.
    """
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING
    return value is None or value != value


class NoColumnError(DataError):
    """A column that is not there."""


_NAMED_BY: Final = {
    "label": " (data.label in a recipe, --label of `evaluate`)",
    "unit": " (budget.unit in a recipe)",
    "caption": " (data.caption_column in a recipe)",
}


def no_column(
    place: str | Path, kind: str, name: str, known: Sequence[str], hint: str | None = None
) -> NoColumnError:
    """The error for a column that is not there; it names those that are."""
    close = None if hint else nearest(name, known)
    hint = (
        f"did you mean {close!r}?"
        if close
        else hint or f"name one of these{_NAMED_BY.get(kind, '')}, or add it"
    )
    return NoColumnError(f"{place}: no {kind} column {name!r} among {', '.join(known) or 'none'}", hint=hint)


def is_hub(path: str | Path) -> bool:
    """Whether a path names a data set of the Hugging Face Hub."""
    return str(path).startswith(HUB)


def kind_of(path: str | Path, *, hint: str = f"give {_KINDS}") -> str:
    """A kind of `SOURCES`, by what lies at `path`. Raises: `DataError` if nothing usable does.

    hint: what to say where nothing lies at `path`.
    """
    if is_hub(path):
        return "hf"
    place = Path(path)
    if place.is_dir():
        return _kind_of_folder(place)
    if not place.exists():
        raise DataError(f"images not found: {place}", hint=hint)
    if kind := _SUFFIXES.get(place.suffix.lower()):
        return kind
    raise DataError(
        f"expected a folder or a .parquet file (or a manifest, .csv or .tsv), got {place}",
        hint="a parquet file with a column `image`, a manifest with a column `path`, or a folder of images",
    )


def require_place(path: str) -> None:
    """Raises `DataError` for a `data.path` where nothing is, or a file of another kind; opens nothing."""
    if not Path(path).is_dir():  # a folder would be looked into
        kind_of(path, hint=FROM_RECIPE)


def is_saved(folder: Path) -> bool:
    """Whether a folder is one of Hugging Face's `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or any(folder.glob("*.arrow"))


def _kind_of_folder(folder: Path) -> str:
    """Hugging Face's `save_to_disk`; parquet files in it or in its `data/`; DICOM files; else pictures.

    Raises: `DataError` for parquet files beside pictures.
    """
    if is_saved(folder):
        return "hf"
    if any(any(place.glob("*.parquet")) for place in (folder, folder / "data")):
        if holds_pictures(folder):  # either could be the stray
            raise DataError(
                f"{folder} holds parquet files and pictures, and only one of the two can be meant",
                hint="move the parquet files out of the folder of pictures, or name one itself",
            )
        return "parquet"
    return "dicom" if holds_dicom(folder) else "folder"
