"""From a source to the fields of `PrivateImages`: decoded, labelled, captioned, owned and traced.

Guarantees that images, labels, captions and owners stay row by row together, and that whatever a source says
of people is noted for the leak scan before anything is trained. May import numpy; never torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.data.caption_template import needs_label, require_known_fields
from dp_diffusers.data.decoding import Decoder, exactly
from dp_diffusers.data.labels import label_numbers, typed_labels
from dp_diffusers.data.ownership import owners_of
from dp_diffusers.data.sources import RawImages, open_source
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import DataError, ParameterError


def fields_of(
    kind: str,
    path: str | Path,
    decoder: Decoder,
    *,
    label: str | None,
    unit: str | None,
    caption: str | None,
    caption_column: str | None,
    classes: Sequence[str] | None,
) -> dict[str, Any]:
    """The fields of the images at `path`, a source of `kind`. unit: a column, or None or `image`.

    Raises: `DataError` for whatever the source, the labels or the images lack.
    """
    _one_of(caption, caption_column)
    column = None if unit == "image" else unit
    raw = open_source(kind, path, label=label, unit=column, caption=caption_column)
    _require_names(raw, caption, classes, of_rows=(kind, label) != ("folder", "folder"))
    if kind in ("folder", "dicom") and label == "folder":
        _require_known_folders(raw, classes)
    return {**_assembled(raw, decoder, classes, caption), "unit": unit or "image"}


def _one_of(caption: str | None, caption_column: str | None) -> None:
    """Raises: `DataError` for two answers to one question, and for a template that cannot be filled in."""
    if caption is not None and caption_column is not None:
        raise DataError(
            "both caption and caption_column were given",
            hint="caption is one text or template for all images, caption_column holds a text for each",
        )
    if caption is not None:
        require_known_fields(caption)


def _assembled(
    raw: RawImages, decoder: Decoder, classes: Sequence[str] | None, caption: str | None
) -> dict[str, Any]:
    given = _distinct(classes)
    raw = replace(raw, labels=typed_labels(raw, given))
    text = _are_text(raw)
    labels, names = label_numbers(raw, given)
    owners = owners_of(raw.units, raw.count)
    kept = owners.kept.tolist()
    traces = _traces(raw)
    # counted before some are left out: `compress` stops where the shorter of both ends
    encoded = exactly(traces.watching(raw.encoded()), raw.count)
    images = decoder.decode(compress(encoded, kept), len(owners.owner))
    return {
        "images": images,
        "labels": None if labels is None else labels[owners.kept],
        # numbers are used as they are: how many names they would have is for no one unit to say
        "class_names": names if text or given or raw.class_names else None,
        "owner": owners.owner,
        "unit_count": owners.unit_count,
        "class_names_from_data": text and given is None,
        "names_in_file": given is None and raw.class_names is not None,
        "caption": caption,
        "captions": None if raw.captions is None else tuple(compress(raw.captions, kept)),
        "multi_owner": owners.multi_owner,
        "dropped": np.flatnonzero(~owners.kept),
        "traces": traces,
        "notes": [*raw.notes, *decoder.notes],
    }


def _distinct(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Raises `ParameterError` for classes that are none, or of which two have one name."""
    if classes is not None and (not classes or len(set(classes)) < len(classes)):
        raise ParameterError(
            f"expected classes to be distinct names, at least one, got {list(classes)!r}",
            hint="None takes the labels as they are",
        )
    return None if classes is None else tuple(classes)


def _are_text(raw: RawImages) -> bool:
    return raw.labels is not None and isinstance(raw.labels[0], str)


def _require_names(
    raw: RawImages, caption: str | None, classes: Sequence[str] | None, *, of_rows: bool
) -> None:
    """Raises: `DataError` where a template has no name to fill in, or one that a private row wrote.

    of_rows: labels are of a column; class folders are named by whoever laid them out.
    """
    if caption is None or not needs_label(caption):
        return
    if raw.labels is None:
        raise DataError("the caption needs {label}, but there are no labels", hint="set data.label")
    if of_rows and classes is None and _are_text(raw):
        raise DataError(
            "the caption needs {label}, and nobody said which classes there are",
            hint="set data.classes: otherwise names from private rows would become public texts",
        )


def _require_known_folders(raw: RawImages, classes: Sequence[str] | None) -> None:
    """Raises: `DataError` for a class folder that no class is called as, without a word of its name.

    Folders have no rows to be counted by: `labels` says what holds of a table.
    """
    if classes is None or raw.labels is None or set(map(str, raw.labels)) <= set(classes):
        return
    known = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    raise DataError(
        "a class folder is not in data.classes",
        hint=f"a class is called as its folder is, capitals too; the classes are {known}",
    )


def _traces(raw: RawImages) -> Traces:
    traces = Traces.of_names(raw.names, raw.units or ())
    traces.add_ids(raw.ids)
    traces.add_captions(raw.captions or ())
    return traces
