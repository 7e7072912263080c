"""What arrays of images, labels, captions and owners must look like, whoever made them.

Guarantees one line that says what was expected and what came. May import numpy; never torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dp_diffusers.errors import DataError


def check_images(images: object) -> None:
    """Raises: `DataError` unless uint8 `[N, H, W, C]`."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        found = type(images).__name__
        if isinstance(images, np.ndarray):  # how many there are is not said
            found = f"{images.dtype} [{', '.join(['N', *map(str, images.shape[1:])])}]"
        raise DataError(
            f"expected images of uint8 [N, height, width, channels], got {found}",
            hint="pixels from 0 to 255; grey images have one channel: images[..., None]",
        )


def check_labels(labels: object, names: Sequence[str] | None) -> None:
    """Raises: `DataError` unless None, or int64 `[N]` from 0 on, below len(names)."""
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


def check_captions(captions: object, caption: str | None, count: int) -> None:
    """Raises: `DataError` unless None, or a tuple of `count` texts where no template is given."""
    if captions is None:
        return
    if caption is not None:
        raise DataError(
            "both caption and captions were given",
            hint="caption is one text or template for all images, captions a text for each",
        )
    texts = isinstance(captions, tuple) and all(isinstance(text, str) and text for text in captions)
    if not isinstance(captions, tuple) or not texts or len(captions) != count:
        raise DataError("expected captions to be a tuple of one text for each image")


def check_owners(owner: np.ndarray, unit_count: int, unit: str, count: int) -> None:
    """Raises: `DataError` unless int `[N]`, dense, and each image its own owner where that is the unit."""
    if owner.shape != (count,):
        raise DataError("expected one owner and one label for each image")
    if not np.array_equal(np.unique(owner), np.arange(unit_count)):
        raise DataError("expected owners to be numbered from 0 to unit_count - 1 without gaps")
    if unit == "image" and unit_count != count:
        raise DataError(
            "expected each image to be its own owner, since the unit is the image",
            hint="unit= names the column that says whose images they are",
        )
