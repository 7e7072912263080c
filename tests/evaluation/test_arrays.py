"""Arrays and numbers that a call gets wrong are refused in one line, before anything is computed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation.evaluating import evaluate
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.evaluation.sets import opened

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(12) % 3
GOOD = IMAGES, LABELS
BAD: list[tuple[Any, str, str]] = [
    ((IMAGES / 255, LABELS), "dtype uint8, got float64", r"\(images \* 255\).round\(\).astype"),
    ((IMAGES.astype(np.int64), LABELS), "dtype uint8, got int64", "images.astype"),
    ((IMAGES[..., 0], LABELS), r"\[N, H, W, C\], got shape \(12, 8, 8\)", r"images\[..., None\]"),
    ((IMAGES[:, :6], LABELS), r"square images, got shape \(12, 6, 8, 1\)", "crop or pad"),
    ((IMAGES.transpose(0, 3, 1, 2), LABELS), "square images", "channels come last"),
    ((IMAGES[:0], LABELS[:0]), "no images", "at least one"),
    ((IMAGES, LABELS / 1), r"whole numbers \[N\], got float64", "labels.astype"),
    ((IMAGES, np.eye(12, dtype=np.int64)), r"of shape \(12, 12\)", "argmax"),
    ((IMAGES, LABELS[:5]), "12 images and 5 labels", "one label for each"),
    ((IMAGES, LABELS - 1), r"labels in 0\.\.99999, got -1\.\.1", "numbered from 0"),
    ((IMAGES, None), "got object", "labels.astype"),
    ((IMAGES.tolist(), LABELS), "as a numpy array, got list", "numpy"),
    ([IMAGES, LABELS], "two arrays: .* got list", r"a tuple: \(images, labels\)"),
    (None, "two arrays: .* got NoneType", "name or give"),
    ((IMAGES, LABELS, 1), "got a tuple of 3", ""),
    (
        LabelledImages(images=IMAGES, labels=LABELS, class_names=("a", "b")),
        r"labels in 0\.\.1, got 0\.\.2",
        "without gaps",
    ),
]


@pytest.mark.parametrize(("given", "says", "hint"), BAD)
def test_bad_arrays_are_named_with_what_to_do(given: Any, says: str, hint: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        evaluate(given, GOOD, features=None, seeds=2, passes=64)
    assert error.value.message.startswith(("images: ", "expected images as"))
    assert re.search(hint, str(error.value.hint))


@pytest.mark.parametrize("name", ["reference", "real", "public", "public_model"])
def test_an_error_says_which_images_are_meant(name: str) -> None:
    sets: dict[str, Any] = {"reference": GOOD, name: (IMAGES / 255, LABELS)}
    with pytest.raises(DataError, match=f"^{name.replace('_', ' ')}( images)?: expected images of dtype"):
        evaluate(GOOD, **sets, features=None, seeds=2, passes=64)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"passes": 300.5}, "passes to be a whole number, got 300.5"),
        ({"passes": True}, "passes to be a whole number, got True"),
        ({"passes": 0}, "passes > 0, got 0"),
        ({"seeds": 2.5}, "seeds to be a whole number, got 2.5"),
        ({"features": 3}, "features as a name, Features or None, got 3"),
        ({"classifier": 3}, "unknown classifier '3'"),
    ],
)
def test_bad_settings_are_refused_before_an_image_is_read(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        evaluate("nowhere", "nowhere", **settings)


def test_arrays_in_any_order_of_memory_and_any_kind_of_integer_are_taken() -> None:
    flipped = IMAGES[::-1, :, ::-1], LABELS[::-1].astype(np.uint8)
    taken = opened(flipped, None)
    assert np.array_equal(taken.images, flipped[0])
    assert taken.images.flags.c_contiguous
    assert taken.labels.dtype == np.int64
