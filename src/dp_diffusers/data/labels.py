"""Labels of a source as numbers, and the names of the classes.

Guarantee: what a number means is for the caller or the source's own declaration to say, never for one row;
no error repeats a label. May import numpy, never torch. Class names found in the data alone are sorted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from dp_diffusers.data.sources import RawImages
from dp_diffusers.errors import DataError

_FROM_0 = "classes are numbered from 0 without gaps, or named"


def typed_labels(raw: RawImages, classes: tuple[str, ...] | None) -> list[int] | list[str] | None:
    """Labels of a table without types: by the classes that the caller gave, never by what one row holds.

    Raises: `DataError` for text where no classes were given.
    """
    if raw.labels is None or raw.typed or any(map(_is_whole, classes or ())):
        return raw.labels
    if all(_is_whole(label) for label in raw.labels):
        return [int(label) for label in raw.labels]
    if classes is None:
        raise DataError(
            "the labels are text, and nobody said which classes there are",
            hint="set data.classes: otherwise one person's row could change the number of everyone's class",
        )
    return raw.labels


def _is_whole(value: object) -> bool:
    return re.fullmatch(r"-?\d{1,9}", str(value)) is not None


def label_numbers(
    raw: RawImages, classes: tuple[str, ...] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels as numbers, int64 `[N]`, and the class names.

    `classes` fixes names and order; otherwise the source's declared names, or the sorted names or the numbers
    found. Where the source has numbers, names that are all whole numbers mean these, as in a source of text;
    other names are theirs by position. Raises: `DataError` for a label outside them.
    """
    if raw.labels is None:
        return None, None
    if isinstance(raw.labels[0], str):
        return _from_text([str(label) for label in raw.labels], classes or raw.class_names)
    numbers = np.asarray(raw.labels, np.int64)
    declared = raw.class_names
    if classes is not None and declared is not None and set(classes) & set(declared):
        # The file says which name each number means: `classes` then reorders names, it does not rename.
        _from_numbers(numbers, declared)
        return _from_text([declared[number] for number in numbers.tolist()], classes)
    if classes is not None and all(map(_is_whole, classes)) and len(set(map(int, classes))) == len(classes):
        return _by_number(numbers, classes)
    return _from_numbers(numbers, classes or declared)


def _by_number(labels: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The place of the class that is called like each number."""
    values = np.array([int(name) for name in classes], np.int64)
    order = np.argsort(values)
    places = order[np.searchsorted(values, labels, sorter=order).clip(max=len(values) - 1)]
    unknown = values[places] != labels
    if unknown.any():
        raise _not_a_class(unknown.argmax(), classes)
    return places.astype(np.int64), classes


def _from_text(labels: list[str], known: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    names = known or tuple(sorted(set(labels)))
    position = {name: index for index, name in enumerate(names)}
    unknown = next((row for row, label in enumerate(labels) if label not in position), None)
    if unknown is not None:
        raise _not_a_class(unknown, names)
    return np.fromiter((position[label] for label in labels), np.int64, len(labels)), names


def _from_numbers(labels: np.ndarray, known: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    if known is None:
        if labels.min() < 0:
            raise DataError(f"expected labels >= 0, that {_place(labels.argmin())} is less", hint=_FROM_0)
        if labels.max() >= 100_000:
            raise DataError(
                f"expected labels to number classes from 0, that {_place(labels.argmax())} is too large",
                hint=_FROM_0,
            )
        known = tuple(map(str, range(int(labels.max()) + 1)))
    outside = (labels < 0) | (labels >= len(known))
    if outside.any():
        hint = f"{len(known)} classes are numbered 0 to {len(known) - 1}"
        raise DataError(f"the label {_place(outside.argmax())} is outside the classes", hint=hint)
    return labels, known


def _not_a_class(row: int | np.integer, names: Iterable[str]) -> DataError:
    return DataError(
        f"the label {_place(row)} is not in data.classes",
        hint=f"look at that row's label; the classes are {_listed(names)}",
    )


def _place(row: int | np.integer) -> str:
    """All that an error may say of one label: what it is belongs to somebody."""
    return f"in row {row} (counted from 0)"


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")
