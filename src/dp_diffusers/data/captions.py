"""What is written of an image: a private text of its own, or a public one for all images of its class.

Guarantees that a missing text is refused, that the texts of a template follow from class names alone, and
that no error repeats a private text. May import numpy; never torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dp_diffusers.data.caption_template import expanded, needs_label
from dp_diffusers.data.sources import is_missing
from dp_diffusers.errors import DataError

if TYPE_CHECKING:
    from dp_diffusers.data.private_images import PrivateImages


def captions_of(data: PrivateImages) -> tuple[list[str], np.ndarray]:
    """Distinct texts, and int64 `[N]`: the place of each image's text among them.

    A template's texts are public and in the order of the classes, whether or not an image has them; those of
    a column are private and sorted. Raises: `DataError` for images without any.
    """
    if data.captions is not None:
        texts = sorted(set(data.captions))
        places = {text: place for place, text in enumerate(texts)}
        return texts, np.fromiter(map(places.__getitem__, data.captions), np.int64, len(data.captions))
    if data.caption is None:
        raise DataError(
            "the base model learns from captions, and the images have none",
            hint="set data.caption, a text that may hold {label}, or data.caption_column",
        )
    if not needs_label(data.caption):
        return [data.caption], np.zeros(len(data.images), np.int64)
    labels = data.labels
    if labels is None:
        raise DataError("the caption needs {label}, but there are no labels", hint="set data.label")
    names = data.class_names or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    return [expanded(data.caption, name) for name in names], labels.copy()


def checked_captions(place: str, name: str, values: Sequence[Any]) -> list[str]:
    """The texts of a column. Raises: `DataError` for one that is missing, or no text."""
    missing = next((row for row, value in enumerate(values) if is_missing(value)), None)
    if missing is not None:
        raise DataError(
            f"{place}: caption column {name!r} is missing in row {missing} (counted from 0)",
            hint="fill in the text, or remove the row",
        )
    other = sorted({type(value).__name__ for value in values if not isinstance(value, str)})
    if other:
        raise DataError(
            f"{place}: expected caption column {name!r} to hold text, got {', '.join(other)}",
            hint="data.caption_column names another column; one text for each image",
        )
    return list(values)
