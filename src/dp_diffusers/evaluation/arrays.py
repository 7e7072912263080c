"""Images and labels that a caller holds in memory, looked at before anything is computed from them.

Guarantees uint8 squares with an integer label each: values in [0, 1] are never taken for nearly black images.
May import numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import DataError

PAIR = "a path, or two arrays: (uint8 [N, H, W, C], int64 [N])"


def pair_of(value: Any, called: str) -> tuple[Any, Any]:
    """`value` as images and labels. Raises `DataError` for anything but a tuple of two."""
    if not isinstance(value, tuple):
        raise DataError(f"expected {called} as {PAIR}, got {type(value).__name__}", hint=_hint_of_type(value))
    if len(value) != 2:
        raise DataError(f"expected {called} as {PAIR}, got a tuple of {len(value)}")
    return value


def checked_arrays(
    images: Any, labels: Any, called: str, classes: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The arrays, images uint8 `[N, H, W, C]` and labels int64 `[N]`, as they are but in one piece of memory.

    called: what they are, in an error. classes: how many there are, None where the labels say it.
    Raises `DataError` for other types and shapes, none at all, images that are no squares, labels outside.
    """
    pixels = np.ascontiguousarray(_checked_images(images, called))
    numbers = np.ascontiguousarray(_checked_labels(labels, called), np.int64)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{called}: {len(pixels)} images and {len(numbers)} labels", hint="one label for each"
        )
    last = (100_000 if classes is None else classes) - 1
    if numbers.min() < 0 or numbers.max() > last:
        raise DataError(
            f"{called}: expected labels in 0..{last}, got {numbers.min()}..{numbers.max()}",
            hint="classes are numbered from 0 without gaps",
        )
    return pixels, numbers


def _checked_images(images: Any, called: str) -> NDArray[np.uint8]:
    if not isinstance(images, np.ndarray):
        hint = "a tensor: images.cpu().numpy(), with the channels last"
        raise DataError(f"{called}: expected images as a numpy array, got {type(images).__name__}", hint=hint)
    if images.dtype != np.uint8:
        scaled = "for values in [0, 1]: (images * 255).round().astype(np.uint8)"
        hint = scaled if images.dtype.kind == "f" else "for values in 0..255: images.astype(np.uint8)"
        raise DataError(f"{called}: expected images of dtype uint8, got {images.dtype}", hint=hint)
    if images.ndim != 4:
        grey = "of grey images: images[..., None]" if images.ndim == 3 else "one row for each image"
        raise DataError(f"{called}: expected images [N, H, W, C], got shape {images.shape}", hint=grey)
    if 0 in images.shape:
        raise DataError(f"{called}: no images, shape {images.shape}", hint="give at least one")
    if images.shape[1] != images.shape[2]:
        hint = "crop or pad them first" if images.shape[1] > 4 else "the channels come last: [N, H, W, C]"
        raise DataError(f"{called}: expected square images, got shape {images.shape}", hint=hint)
    return images


def _checked_labels(labels: Any, called: str) -> NDArray[np.integer]:
    try:
        found = np.asarray(labels)
    except ValueError:  # rows of unequal length
        found = np.empty(0, object)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        hint = "of one-hot rows: labels.argmax(1)" if found.ndim == 2 else "labels.astype(np.int64)"
        raise DataError(
            f"{called}: expected labels as whole numbers [N], got {found.dtype} of shape {found.shape}",
            hint=hint,
        )
    return found


def _hint_of_type(value: Any) -> str:
    return "a tuple: (images, labels)" if isinstance(value, list | np.ndarray) else "name or give the images"
