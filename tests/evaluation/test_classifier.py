"""The classifier: learns from drawn digits, repeats itself, refuses what it cannot use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dp_diffusers.data.drawn_digits import drawn_digits
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation.augmentation import distorted
from dp_diffusers.evaluation.classifier import Labelled, accuracy_of, default_passes, network, train_and_test


def _digits(count: int, seed: int, fonts: float = 0.0) -> Labelled:
    images, labels = drawn_digits(count, 16, seed, fonts=fonts)
    return images[..., None], labels


@pytest.mark.slow
def test_learns_drawn_digits_and_recognises_others() -> None:
    _, result = train_and_test(_digits(2000, 0), _digits(500, 1), seed=0, passes=8000, classes=10)
    assert result.accuracy > 85
    assert len(result.per_class) == 10
    assert math.isclose(np.mean(result.per_class), result.accuracy, abs_tol=0.1)


def test_shuffled_labels_teach_nothing() -> None:
    images, labels = _digits(2000, 0)
    shuffled = np.random.default_rng(0).permutation(labels)
    _, result = train_and_test((images, shuffled), _digits(500, 1), seed=0, passes=2560, classes=10)
    assert result.accuracy < 35


def test_equal_seeds_give_equal_results() -> None:
    state = torch.get_rng_state()
    one, two, other = (
        train_and_test(_digits(300, 0), _digits(300, 1), seed=seed, passes=1000, classes=10)[1]
        for seed in (3, 3, 4)
    )
    assert one == two
    assert one != other
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (8, 3), (28, 1), (32, 3), (64, 3)])
def test_any_size_and_colour(size: int, channels: int) -> None:
    model = network(channels, size, 5)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 5)
    assert default_passes(size) > 0


def test_class_without_test_images_is_not_a_number() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    result = accuracy_of(network(1, 8, 3).eval(), (images, np.array([0, 0, 2, 2])), 3)
    assert math.isnan(result.per_class[1])
    assert 0 <= result.accuracy <= 100


def test_distortion_moves_images_but_not_far() -> None:
    images = torch.from_numpy(_digits(100, 0)[0]).permute(0, 3, 1, 2).float() / 255
    moved = distorted(images, torch.Generator().manual_seed(0), flip=False)
    assert moved.shape == images.shape
    assert 0.02 < (moved - images).abs().mean() < 0.3
    assert abs(moved.mean() - images.mean()) < 0.05


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"test": (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64))},
            DataError,
            "training images are",
        ),
        (
            {"train": (np.zeros((0, 16, 16, 1), np.uint8), np.zeros(0, np.int64))},
            DataError,
            "expected training",
        ),
        ({"classes": 3}, DataError, "labels in 0..2"),
        ({"passes": 0}, ParameterError, "passes"),
    ],
)
def test_bad_input(change: dict[str, object], error: type[Exception], match: str) -> None:
    given = {"train": _digits(20, 0), "test": _digits(20, 1), "classes": 10, "passes": 256, **change}
    with pytest.raises(error, match=match):
        train_and_test(
            given["train"], given["test"], seed=0, passes=given["passes"], classes=given["classes"]
        )  # type: ignore[arg-type]
