"""Public images in two sets, one to train on and one to test on, as private images and a reference are.

Guarantees that equal pictures are on one side, whatever the order of the files: a hash of the pixels decides.
May import torch and diffusers through the base, and the readers of `data`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.public_images import PublicImages, load_public
from dp_diffusers.errors import DataError, counted
from dp_diffusers.recipe import Recipe

PARTS: Final = 5  # one of them is the reference
OTHERWISE: Final = "or name benchmark data: evaluate.reference"


def loaded(sources: dict[str, Any], recipe: Recipe) -> PublicImages:
    """The images, as large as the base takes them."""
    size, channels = sources.get("size"), sources.get("channels")
    if size is None or channels is None:
        from dp_diffusers.diffusion.family import family_of
        from dp_diffusers.diffusion.loading import load_base

        family = family_of(load_base(recipe.base), size=recipe.data.size)
        size, channels = family.size, family.channels
    return load_public(sources["data"], size, channels, sources["seed"])


def split(public: PublicImages, wanted: Sequence[str] | None, most: int) -> tuple[PublicImages, PublicImages]:
    """Four fifths and one fifth by a hash of the pixels; at most `most` of the first.

    Of the classes that a recipe names, `wanted`, where the images have them all, else of all that they have.
    Raises `DataError` where a class lacks images on one side.
    """
    named = wanted and set(wanted) <= set(public.class_names)
    names = tuple(wanted) if wanted and named else public.class_names
    numbers = np.array([names.index(name) if name in names else -1 for name in public.class_names], np.int64)
    labels = numbers[public.labels]
    digests = np.array(
        [int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8], "little") for image in public.images],
        np.uint64,
    )
    known = labels >= 0
    reference = np.flatnonzero(known & (digests % np.uint64(PARTS) == 0))
    images = np.flatnonzero(known & (digests % np.uint64(PARTS) != 0))
    # in the order of the hashes, so that which images are left out depends on no order of files
    images = np.sort(images[np.argsort(digests[images], kind="stable")][:most])
    _require_classes(names, labels[images], labels[reference])
    first, second = (
        PublicImages(images=public.images[rows], labels=labels[rows], class_names=names)
        for rows in (images, reference)
    )
    return first, second


def _require_classes(names: tuple[str, ...], images: NDArray[np.int64], reference: NDArray[np.int64]) -> None:
    if len(names) < 2:
        raise DataError(
            f"the public stand-in has {counted(len(names), 'class', 'classes')}, a classifier needs two",
            hint=f"labelled images: a folder per class, or a column `label`; {OTHERWISE}",
        )
    for side, labels in (("to train on", images), ("to test on", reference)):
        missing = sorted(set(range(len(names))) - set(labels.tolist()))
        if missing:
            raise DataError(
                f"the public stand-in has no image {side} of class {names[missing[0]]!r}",
                hint=f"it needs a dozen images of each class; {OTHERWISE}",
            )
