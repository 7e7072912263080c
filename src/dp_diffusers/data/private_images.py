"""Private images in memory, with the unit of privacy that owns each of them.

Guarantees:
- every image has an owner, and owners are numbered 0..unit_count-1 without gaps; where the unit is the image,
  each image is its own owner; where images belong to several people, no person is in two owners;
- images are uint8 `[N, H, W, C]`; labels are numbers from 0, below len(class_names) where there are names;
- no file name, unit id or pixel appears in `repr` or in `notes`.
May import numpy (PIL and pyarrow through its sources); never torch. Files are read without any cache on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np

from dp_diffusers.data.decoding import Decoder, Resize
from dp_diffusers.data.labels import label_numbers, typed_labels
from dp_diffusers.data.ownership import owners_of
from dp_diffusers.data.sources import RawImages, default_label, kind_of, open_source
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PrivateImages:
    """Images, labels and owners. `N` images of `U` units.

    images: uint8 `[N, H, W, C]`. labels: int64 `[N]`, or None. class_names: one per class, or None.
    owner: int64 `[N]`, dense unit ids. class_names_from_data: labels are text and the caller named no
    classes, so that one unit could change every number; they are matched by name or not at all. caption: a
    template such as `chest x-ray, {label}`. unit: whose images they are, `image` or the name of the column
    that `owner` comes from; a budget must name the same. multi_owner: some images belonged to several people,
    and an owner is a set of them (see `ownership`): a budget's adjacency may not be add_remove then. dropped:
    int64, the source's rows that are left out for it, private. traces: names, ids and bytes of the files,
    to be looked for in a release. notes: what was changed.
    Raises: `DataError` for arrays of another type or shape, labels out of range, arrays that do not fit
    together, or owners that are not as `unit` says.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    owner: np.ndarray
    unit_count: int
    class_names_from_data: bool = False
    caption: str | None = None
    unit: str = "image"
    multi_owner: bool = False
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    traces: Traces = field(default_factory=Traces)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, self.class_names)
        count = len(self.images)
        if self.owner.shape != (count,) or (self.labels is not None and self.labels.shape != (count,)):
            raise DataError("expected one owner and one label for each image")
        if not np.array_equal(np.unique(self.owner), np.arange(self.unit_count)):
            raise DataError("expected owners to be numbered from 0 to unit_count - 1 without gaps")
        if self.unit == "image" and self.unit_count != count:
            raise DataError(
                "expected each image to be its own owner, since the unit is the image",
                hint="unit= names the column that says whose images they are",
            )
        if self.multi_owner and self.unit == "image":
            raise DataError("expected unit to name whose images they are, since they have several owners")

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        labels: str | None = "folder",
        caption: str | None = None,
        unit: str | None = None,
        *,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
    ) -> PrivateImages:
        """Images below a folder. `labels`: `folder` (class folders), a column of its `metadata.csv`, or None.

        `unit`: the column of `metadata.csv` that says whose image it is; without it each image is a unit.
        Raises: `DataError` for a missing or empty folder, an unreadable image, mixed sizes, an unknown class,
        an image without a row, a column that is not there, a missing id.
        """
        raw = open_source("folder", path, label=labels, unit=_column(unit))
        decoder = Decoder(size=size, channels=channels, resize=resize)
        return _assemble(raw, decoder, classes, caption, unit)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        label: str | None = "label",
        unit: str | None = None,
        caption: str | None = None,
        *,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
    ) -> PrivateImages:
        """Images of a parquet file. `label`, `unit`: columns; without `unit` each image is a unit.

        A list column as `unit` names several people for an image: sets of people who share nobody are kept
        (`multi_owner`), other images are left out.
        Raises: `DataError` for a column that is not there, a null label or unit id, an unreadable image.
        """
        raw = open_source("parquet", path, label=label, unit=_column(unit))
        decoder = Decoder(size=size, channels=channels, resize=resize)
        return _assemble(raw, decoder, classes, caption, unit)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        label: str | None = None,
        unit: str | None = None,
        caption: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
    ) -> PrivateImages:
        """A folder or a parquet file, by what lies at `path`. `unit`: a column, or None or `image`.

        `label`: a column, `folder`, `auto` (class folders of a folder, the column `label` of parquet files)
        or None.
        """
        kind = kind_of(path, hint="paths are relative to the recipe's folder")
        raw = open_source(
            kind, path, label=default_label(kind) if label == "auto" else label, unit=_column(unit)
        )
        decoder = Decoder(size=size, channels=channels, resize=resize)
        return _assemble(raw, decoder, classes, caption, unit)

    def __repr__(self) -> str:
        height, width, channels = self.images.shape[1:]
        return f"PrivateImages({height}x{width}x{channels}, classes={len(self.class_names or ())})"


def _check_images(images: object) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        found = (
            f"{images.dtype} {list(images.shape)}"
            if isinstance(images, np.ndarray)
            else type(images).__name__
        )
        raise DataError(
            f"expected images of uint8 [N, height, width, channels], got {found}",
            hint="pixels from 0 to 255; grey images have one channel: images[..., None]",
        )


def _check_labels(labels: object, names: Sequence[str] | None) -> None:
    if labels is None:
        return
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
        found = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(f"expected labels of int64 [N], got {found}", hint="labels.astype(np.int64)")
    if names is not None and labels.size and not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(
            f"expected labels from 0 to {len(names) - 1}, one number for each of {len(names)} classes"
        )
    if labels.size and labels.min() < 0:
        raise DataError("expected labels >= 0")


def _column(unit: str | None) -> str | None:
    """The column of a unit; None where each image is one."""
    return None if unit == "image" else unit


def _assemble(
    raw: RawImages, decoder: Decoder, classes: Sequence[str] | None, caption: str | None, unit: str | None
) -> PrivateImages:
    given = tuple(classes) if classes is not None else None
    raw = replace(raw, labels=typed_labels(raw, given))
    text = raw.labels is not None and isinstance(raw.labels[0], str)
    labels, names = label_numbers(raw, given)
    if caption is not None and "{label}" in caption and names is None:
        raise DataError("the caption needs {label}, but there are no labels", hint="set data.label")
    owners = owners_of(raw.units, raw.count)
    traces = Traces.of_names(raw.names, raw.units or ())
    watched = traces.watching(raw.encoded())
    images = decoder.decode(compress(watched, owners.kept.tolist()), len(owners.owner))
    return PrivateImages(
        images=images,
        labels=None if labels is None else labels[owners.kept],
        # numbers are used as they are: how many names they would have is for no one unit to say
        class_names=names if text or given or raw.class_names else None,
        owner=owners.owner,
        unit_count=owners.unit_count,
        class_names_from_data=text and given is None,
        caption=caption,
        unit=unit or "image",
        multi_owner=owners.multi_owner,
        dropped=np.flatnonzero(~owners.kept),
        traces=traces,
        notes=[*raw.notes, *decoder.notes],
    )
