"""Labels in the numbering of the base model: as declared, or by name where names are shared, or by position.

Guarantees that an image trains the class whose name it carries, that a match by position is said, that names
which fit in part and names of several classes of the base are refused, and that no unit can change the number
of another's class; a name that comes from the images is repeated in no error. May import numpy, never torch.
Nothing of the images but their class names is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dp_diffusers.classes.base_classes import WHICH, all_or_none, by_position, several
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError


def numbered_for(
    data: PrivateImages,
    classes: int,
    names: tuple[str, ...] | None,
    mapped: Mapping[str, int] | None = None,
) -> tuple[PrivateImages, list[str]]:
    """The images as a base model with `classes` classes called `names` counts them, and what to say about it.

    mapped: the base's number of each declared class, where a recipe says which (`data.base_classes`); public
    images may have the base's own classes then, and without names the numbers of the declared ones.
    An unconditional model (`classes` 0) ignores labels.
    Raises: `DataError` for labels that are missing, too many, called partly like the base's classes, or
    numbered by names that the data alone know.
    """
    if data.caption is not None or data.captions is not None:
        raise DataError(
            "the base model takes no captions",
            hint="leave data.caption and data.caption_column out; it learns from labels",
        )
    if not classes:
        return replace(data, labels=None, class_names=None, class_names_from_data=False), []
    if data.labels is None:
        raise DataError(
            "the base model is class-conditional but the images have no labels",
            hint="set data.label: a column, folder, or of DICOM files a keyword such as BodyPartExamined",
        )
    if mapped is not None:
        return _as_declared(data, data.labels, names or (), mapped), []
    own = data.class_names
    shared = set(own or ()) & set(names or ())
    if own is None or names is None or not shared:
        return data, _by_position(data, classes, names)
    _require_all(data, own, shared, all_or_none(names))
    _require_one(data, own, several(names))
    numbers = np.array([names.index(name) for name in own], np.int64)
    labels = numbers[data.labels]
    return replace(data, labels=labels, class_names=names, class_names_from_data=False), []


def _as_declared(
    data: PrivateImages, labels: np.ndarray, names: tuple[str, ...], mapped: Mapping[str, int]
) -> PrivateImages:
    """Raises: `DataError` for classes known in part or by the name of several, or more than are declared."""
    own, known = data.class_names, {name: place for place, name in enumerate(names)} | dict(mapped)
    if own is not None and set(own) & set(known):
        _require_all(data, own, set(known), "name them all as data.classes does, or as the base does")
        _require_one(data, own, several(names) - set(mapped))
        numbers = np.array([known[name] for name in own], np.int64)
    else:
        numbers = np.array(list(mapped.values()), np.int64)
        if labels.max(initial=-1) >= len(numbers):
            raise DataError(
                f"{len(numbers)} classes are declared, the images have more", hint="set data.classes"
            )
    return replace(data, labels=numbers[labels], class_names=names or None, class_names_from_data=False)


def _require_all(data: PrivateImages, own: tuple[str, ...], known: set[str], hint: str) -> None:
    unknown = [number for number, name in enumerate(own) if name not in known]
    if unknown:
        raise DataError(
            f"the base model has some of the images' classes but not {_called(data, own, unknown)}", hint=hint
        )


def _require_one(data: PrivateImages, own: tuple[str, ...], shared: frozenset[str]) -> None:
    """shared: the names that several classes of the base have."""
    unclear = [number for number, name in enumerate(own) if name in shared]
    if unclear:
        called = _called(data, own, unclear)
        raise DataError(f"the base model has several classes of one name: {called}", hint=WHICH)


def _called(data: PrivateImages, own: tuple[str, ...], unknown: list[int]) -> str:
    """A declared class by its name; one that the data name by the row of its first image, in the source."""
    if not (data.class_names_from_data or data.names_in_file):
        return repr(own[unknown[0]])
    assert data.labels is not None  # they have names
    found = np.flatnonzero(np.isin(data.labels, unknown))
    if not len(found):
        return "all that the file names"
    rows = np.delete(np.arange(len(data.images) + len(data.dropped)), data.dropped)
    return f"that of row {rows[found[0]]} (counted from 0)"


def _by_position(data: PrivateImages, classes: int, names: tuple[str, ...] | None) -> list[str]:
    """What to say. Raises: `DataError` where the base has fewer classes."""
    if data.class_names_from_data:
        raise DataError(
            "the labels are text, and the base model does not know their names: one image of a new class "
            "would change the number of the others",
            hint="set data.classes, in the order of the base's classes",
        )
    labels = data.labels if data.labels is not None else np.zeros(0, np.int64)
    count = len(data.class_names) if data.class_names else int(labels.max(initial=-1)) + 1
    if count > classes:
        raise DataError(
            f"the base model has {classes} classes, the images have more",
            hint="set data.classes; or give the base its names, a list in classes.json: without it the last "
            "class embedding is taken for that of no class",
        )
    return [by_position(data.class_names, names)] if data.class_names and names else []
