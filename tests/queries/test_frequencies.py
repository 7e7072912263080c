"""Coarse numbers of images: back to images, whose row is whose, what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.queries.frequencies import DrawnImages, Frequencies


@pytest.mark.parametrize("channels", [1, 3])
def test_all_numbers_give_the_image_back(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, channels)).astype(np.uint8)
    asked = Frequencies.coarsest(size=6, channels=channels, dimensions=36 * channels)
    rows = asked.rows(images)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(5))
    assert np.array_equal(asked.images(rows[:, :-1] / rows[:, -1:]), images)


def test_grey_images_are_colours_of_a_model_that_has_them() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 1)).astype(np.uint8)
    asked = Frequencies.coarsest(size=6, channels=3, dimensions=108)
    rows = asked.rows(grey)
    assert np.array_equal(asked.images(rows[:, :-1] / rows[:, -1:]), np.repeat(grey, 3, 3))


def test_few_numbers_give_a_blurred_image() -> None:
    """A slow slope comes back, a chequerboard comes back as its mean."""
    slope = np.broadcast_to(np.linspace(40, 200, 16), (16, 16))
    board = 100 + 100 * (np.indices((16, 16)).sum(0) % 2)
    images = np.stack([slope, board])[..., None].astype(np.uint8)
    asked = Frequencies.coarsest(size=16, channels=1, dimensions=40)
    rows = asked.rows(images)
    back = asked.images(rows[:, :-1] / rows[:, -1:]).astype(int)
    assert np.abs(back[0] - images[0]).max() < 12
    assert np.abs(back[1] - 150).max() < 12


def test_the_coarsest_come_first_and_brightness_before_colour() -> None:
    places = Frequencies.coarsest(size=8, channels=3, dimensions=4).places.tolist()
    assert places[0] == 0
    assert set(places[1:3]) <= {1, 8, 64, 128}
    grey = [place for place in Frequencies.coarsest(size=8, channels=3, dimensions=40).places if place < 64]
    assert len(grey) > 26, "most are about brightness"


def test_usual_images_have_about_the_spread_that_is_assumed() -> None:
    """Rows of images with a 1 / f spectrum are neither all constant nor without the constant."""
    rng = np.random.default_rng(1)
    frequency = np.maximum(np.hypot(*np.mgrid[:32, :32]), 0.5)
    from scipy.fft import idctn

    pixels = idctn(rng.normal(size=(200, 32, 32)) * 0.15 * 32 / frequency, axes=(1, 2), norm="ortho")
    images = np.clip((pixels + 1) * 127.5, 0, 255).astype(np.uint8)[..., None]
    constant = Frequencies.coarsest(size=32, channels=1, dimensions=128).rows(images)[:, -1]
    assert 0.6 < constant.mean() < 0.8, "half of the square of a row, as where |v| is 1"


def test_guarantee_the_row_of_an_image_does_not_depend_on_the_others() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 12, 3)).astype(np.uint8)
    asked = Frequencies.coarsest(size=12, channels=3, dimensions=60)
    whole = asked.rows(images)
    assert np.array_equal(whole[1:], asked.rows(images[1:]))
    assert np.array_equal(whole[7:8], asked.rows(images[7:8]))


@pytest.mark.parametrize(("channels", "dimensions"), [(2, 4), (1, 65), (3, 193)])
def test_what_has_no_such_numbers_is_refused(channels: int, dimensions: int) -> None:
    with pytest.raises(ParameterError, match="expected"):
        Frequencies.coarsest(size=8, channels=channels, dimensions=dimensions)


def test_large_images_are_made_a_few_at_a_time() -> None:
    """All at once, four thousand images of 256 x 256 would be 25 GB."""
    asked = Frequencies.coarsest(size=256, channels=3, dimensions=20)
    images = DrawnImages(asked, np.zeros((4000, 20)))
    tracemalloc.start()
    assert images[10:20].shape == (10, 256, 256, 3)
    assert images[np.array([3, 1])].shape == (2, 256, 256, 3)
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()
    assert len(images) == 4000
    assert 1 <= asked.at_once * 256 * 256 * 3 <= 2**22
