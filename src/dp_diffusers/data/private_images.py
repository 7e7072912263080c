"""Private images in memory, with the unit of privacy that owns each of them.

Guarantees:
- every image has an owner, and owners are numbered 0..unit_count-1 without gaps; where the unit is the image,
  each image is its own owner; where images belong to several people, no person is in two owners;
- images are uint8 `[N, H, W, C]`; labels are numbers from 0, below len(class_names) where there are names;
- captions are one text per image, as are labels and owners, whatever is left out;
- no file name, unit id, caption or pixel appears in `repr` or in `notes`;
- what becomes of an image is decided by what was asked for and by itself: where no size or number of
  channels is asked for, images that differ in it are refused.
May import numpy (PIL, pyarrow and pydicom through its sources); never torch. Files are read without any cache
on disk, but for pixels that `open` is given a safe folder for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.data.array_checks import check_captions, check_images, check_labels, check_owners
from dp_diffusers.data.assembly import fields_of
from dp_diffusers.data.caption_template import needs_label
from dp_diffusers.data.decoding import Decoder, Resize
from dp_diffusers.data.dicom_pixels import Window
from dp_diffusers.data.pixel_room import room_in
from dp_diffusers.data.sources import FROM_RECIPE, default_label, kind_of
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PrivateImages:
    """Images, labels and owners. `N` images of `U` units.

    images: uint8 `[N, H, W, C]`. labels: int64 `[N]`, or None. class_names: one per class, or None.
    owner: int64 `[N]`, dense unit ids. class_names_from_data: labels are text and the caller named no
    classes, so that one unit could change every number; they are matched by name or not at all.
    names_in_file: the caller named no classes, and the file's schema does; a certificate says so. caption: a
    template such as `chest x-ray, {label}`, or one text for all; captions: a private text per image instead;
    see `captions.captions_of`. unit: whose images they are, `image` or the name of the column
    that `owner` comes from; a budget must name the same. multi_owner: some images belonged to several people,
    and an owner is a set of them (see `ownership`): a budget's adjacency may not be add_remove then. dropped:
    int64, the source's rows that are left out for it, private. traces: names, ids and bytes of the files,
    to be looked for in a release. notes: what was changed. place: where they were read from; again: reads
    them with the owners of a column. Both None for what was made of others, as by `dataclasses.replace`,
    and `again` where whoever opened them said whose they are, `image` included.
    Raises: `DataError` for arrays of another type or shape, labels out of range, arrays that do not fit
    together, or owners that are not as `unit` says.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    owner: np.ndarray
    unit_count: int
    class_names_from_data: bool = False
    names_in_file: bool = False
    caption: str | None = None
    captions: tuple[str, ...] | None = None
    unit: str = "image"
    multi_owner: bool = False
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    traces: Traces = field(default_factory=Traces)
    notes: list[str] = field(default_factory=list)
    again: Callable[[str], PrivateImages] | None = field(default=None, init=False)
    place: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_images(self.images)
        check_labels(self.labels, self.class_names)
        count = len(self.images)
        if self.labels is not None and self.labels.shape != (count,):
            raise DataError("expected one owner and one label for each image")
        check_owners(self.owner, self.unit_count, self.unit, count)
        check_captions(self.captions, self.caption, count)
        if self.multi_owner and self.unit == "image":
            raise DataError("expected unit to name whose images they are, since they have several owners")

    @classmethod
    def _read(
        cls, kind: str, path: str | Path, decoder: Decoder, unit: str | None, **asked: Any
    ) -> PrivateImages:
        """Opens a source; the decoder stays as it is, so that `of_unit` can do the same again."""
        fields = fields_of(kind, path, replace(decoder, notes=[], alike=True), unit=unit, **asked)
        opened = cls(**fields)
        object.__setattr__(opened, "place", str(path))
        if unit is None:
            object.__setattr__(opened, "again", partial(cls._read, kind, path, decoder, **asked))
        return opened

    def of_unit(self, unit: str) -> PrivateImages:
        """The images with the owners of the column `unit`, read again, if nobody said whose they are.

        Otherwise themselves: what was said stays. Raises: `DataError` for a column that is not there, an
        image without an owner.
        """
        return self if self.again is None or unit == self.unit else self.again(unit)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        labels: str | None = "folder",
        caption: str | None = None,
        unit: str | None = None,
        *,
        caption_column: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
    ) -> PrivateImages:
        """Images below a folder. `labels`: `folder` (class folders), a column of its `metadata.csv`, or None.

        `unit`, `caption_column`: columns of `metadata.csv`; without `unit` each image is a unit, unless the
        budget of `finetune` names a column.
        Raises: `DataError` for a missing or empty folder, an unreadable image, mixed sizes, an unknown class,
        an image without a row, a column that is not there, a missing id or text.
        """
        texts = {"caption": caption, "caption_column": caption_column}
        decoder = Decoder(size=size, channels=channels, resize=resize)
        return cls._read("folder", path, decoder, unit, label=labels, classes=classes, **texts)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        label: str | None = "label",
        unit: str | None = None,
        caption: str | None = None,
        *,
        caption_column: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
    ) -> PrivateImages:
        """Images of parquet files. `label`, `unit`, `caption_column`: columns; without unit an image is one.

        A list column as `unit` names several people for an image: sets of people who share nobody are kept
        (`multi_owner`), other images are left out.
        Raises: `DataError` for a column that is not there, a null label, id or text, an unreadable image.
        """
        texts = {"caption": caption, "caption_column": caption_column}
        decoder = Decoder(size=size, channels=channels, resize=resize)
        return cls._read("parquet", path, decoder, unit, label=label, classes=classes, **texts)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        label: str | None = "label",
        unit: str | None = None,
        caption: str | None = None,
        *,
        caption_column: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
        window: Window | None = None,
    ) -> PrivateImages:
        """Images that a manifest (`.csv`, `.tsv`) lists in its column `path`, relative to itself.

        `label`, `unit`, `caption_column`: its columns. `window`: as in `from_dicom`, where it lists DICOM.
        Raises: `DataError` for a column that is not there, a missing value, an image with two rows or none.
        """
        texts = {"caption": caption, "caption_column": caption_column}
        decoder = Decoder(size=size, channels=channels, resize=resize, window=window)
        return cls._read("csv", path, decoder, unit, label=label, classes=classes, **texts)

    @classmethod
    def from_hf(
        cls,
        path: str | Path,
        label: str | None = "label",
        unit: str | None = None,
        caption: str | None = None,
        *,
        caption_column: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
    ) -> PrivateImages:
        """Images of a folder of `save_to_disk`, or of `hf://owner/name[:split]`, streamed past every cache.

        `label`, `unit`, `caption_column`: columns, as in `from_parquet`. Raises: `DataError` for several
        splits, a data set that cannot be reached, and what `from_parquet` raises for.
        """
        texts = {"caption": caption, "caption_column": caption_column}
        decoder = Decoder(size=size, channels=channels, resize=resize)
        return cls._read("hf", path, decoder, unit, label=label, classes=classes, **texts)

    @classmethod
    def from_dicom(
        cls,
        path: str | Path,
        label: str | None = None,
        unit: str | None = None,
        caption: str | None = None,
        *,
        caption_column: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
        window: Window | None = None,
    ) -> PrivateImages:
        """Images of a folder of DICOM files. `label`: `folder` (class folders) or a DICOM keyword; `unit`,
        `caption_column`: keywords, such as `PatientID`.

        `window`: (center, width) of the values, black to white; None takes the file's own, else the range of
        its stored bits. Raises: `DataError` for several frames, a keyword that a file lacks, no pydicom.
        """
        texts = {"caption": caption, "caption_column": caption_column}
        decoder = Decoder(size=size, channels=channels, resize=resize, window=window)
        return cls._read("dicom", path, decoder, unit, label=label, classes=classes, **texts)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        label: str | None = None,
        unit: str | None = None,
        caption: str | None = None,
        caption_column: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize | None = None,
        window: Window | None = None,
        safe: Path | None = None,
    ) -> PrivateImages:
        """Whatever lies at `path`: a folder, parquet or DICOM files, a manifest, a Hugging Face data set.

        `unit`, `caption_column`: columns; `unit` may be `image`. `label`: a column, `folder`, `auto` (class
        folders of a folder, none of DICOM files, else the column `label`) or None. See the methods above.
        safe: a folder as private as the images, for pixels that are too many for memory.
        """
        kind = kind_of(path, hint=FROM_RECIPE)
        texts = {"caption": caption, "caption_column": caption_column}
        decoder = Decoder(size=size, channels=channels, resize=resize, window=window, room=room_in(safe))
        return cls._read(
            kind,
            path,
            decoder,
            unit,
            label=default_label(kind) if label == "auto" else label,
            classes=classes,
            **texts,
        )

    @property
    def names_are_told(self) -> bool:
        """Whether the names of the classes become texts, and so part of what is released."""
        return self.caption is not None and needs_label(self.caption)

    def __repr__(self) -> str:
        height, width, channels = self.images.shape[1:]
        return f"PrivateImages({height}x{width}x{channels}, classes={len(self.class_names or ())})"
