"""The look for near copies: distances, the test of one count against simulations, figures for the safe."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation.copy_report import auc, copy_report
from dp_diffusers.evaluation.copy_test import CopyTest, threshold_of
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.nearest import Nearest

GREY = Features(name="pixels", dim=16, function=lambda images: images.reshape(len(images), -1) / 255.0)


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def test_distances_are_those_of_all_pairs_and_copies_are_at_none() -> None:
    made, real = images(40, 0), images(30, 1)
    real[3] = made[17]
    distance, place = Nearest(GREY, made).of(real)
    pairs = np.sqrt((((real[:, None].astype(float) - made[None]) / 255) ** 2).reshape(30, 40, -1).sum(2))
    assert distance == pytest.approx(pairs.min(1), abs=1e-6)
    assert (place == pairs.argmin(1)).all()
    assert (distance[3], place[3]) == (0.0, 17)


def swaying(sway: float) -> Features:
    """Vectors that depend a little on how many images are looked at together, as rounding does."""
    return Features(
        name="sway",
        dim=16,
        function=lambda some: some.reshape(len(some), -1) / 255.0 * (1 + sway * len(some)),
    )


def decided_by_others(sway: float) -> bool:
    """The property: whether an image is near is another answer beside other images."""
    made, real = images(40, 0), images(30, 1)
    space = Nearest(swaying(sway), made)
    threshold = float(space.of(real[:1])[0][0]) * (1 + 1e-9)  # on the border for the first image
    return bool(space.nearer(real, threshold)[0] != space.nearer(real[:1], threshold)[0])


def test_guarantee_each_image_is_near_or_not_as_if_it_were_alone() -> None:
    assert not decided_by_others(1e-7)


@pytest.mark.planted
def test_planted_nearness_that_other_images_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nearest, "decided", lambda self, some, distance, at: (distance < at).astype(float))
    assert any(decided_by_others(sway) for sway in (1e-6, -1e-6)), "the planted defect must be visible"


def test_the_threshold_is_a_quantile_of_the_held_out_distances() -> None:
    distance = np.random.default_rng(0).permutation(np.arange(1.0, 501.0))
    assert threshold_of(distance, 1e-6) == (5.0, 5)
    assert threshold_of(distance[:50], 1e-6) == (distance[:50].min(), 1)
    with pytest.raises(DataError, match="at least 20"):
        threshold_of(distance[:19], 1e-6)
    with pytest.raises(DataError, match="copies of held-out ones"):
        threshold_of(np.concatenate([np.zeros(6), distance]), 1e-6)


def said_yes(test: CopyTest, copied: int, background: bool = True) -> float:
    """How often the answer is yes, of 20,000 worlds where fresh units are as near as held-out images."""
    rng, worlds = np.random.default_rng(3), 20_000
    share = rng.beta(test.rank, test.held_out + 1 - test.rank, worlds) if background else np.zeros(worlds)
    near = rng.binomial(test.population - copied, share) + copied
    return float(np.mean(near + rng.normal(0, test.std, worlds) > test.limit))


TESTS = [(1000, 200, 2, 5.0), (5000, 1000, 10, 10.0), (300, 30, 1, 0.5)]


@pytest.mark.parametrize("numbers", TESTS)
def test_guarantee_a_release_without_copies_is_rarely_called_copied(
    numbers: tuple[int, int, int, float],
) -> None:
    population, held_out, rank, std = numbers
    test = CopyTest(population=population, held_out=held_out, rank=rank, std=std)
    assert said_yes(test, 0) <= 0.012  # a hundredth, and four deviations of the simulation
    assert said_yes(test, min(test.could_miss, population), background=False) >= 0.97
    assert said_yes(test, test.could_miss // 3, background=False) < 0.9, "no more than it has to be"


@pytest.mark.planted
def test_planted_limit_that_forgets_the_error_of_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CopyTest, "share_at_most", property(lambda self: self.rank / (self.held_out + 1)))
    test = CopyTest(population=1000, held_out=200, rank=2, std=5.0)
    assert said_yes(test, 0) > 0.02, "the planted defect must be visible"


def test_a_question_that_could_only_be_answered_no_is_refused() -> None:
    CopyTest(population=1000, held_out=1000, rank=10, std=5.0).require_power()
    with pytest.raises(ParameterError, match="could miss copies of all 100 units"):
        CopyTest(population=100, held_out=20, rank=1, std=60.0).require_power()


def test_the_area_counts_each_unit_once_and_ties_as_half() -> None:
    rng = np.random.default_rng(0)
    distance, owner = rng.integers(0, 9, 60).astype(float), np.sort(rng.integers(0, 12, 60))
    owner = np.unique(owner, return_inverse=True)[1]
    held_out = rng.integers(2, 11, 40).astype(float)
    units = int(owner.max()) + 1
    of_pairs = (distance[:, None] < held_out) + 0.5 * (distance[:, None] == held_out)
    expected = np.mean([of_pairs[owner == unit].mean() for unit in range(units)])
    found = auc(distance, owner, units, held_out)
    assert found["mean"] == pytest.approx(expected)
    assert found["low"] < found["mean"] < found["high"]
    many = auc(np.tile(distance, 100), np.tile(owner, 100), units, np.tile(held_out, 100))
    assert many["high"] - many["low"] > 0.5 * (found["high"] - found["low"]), "over units, not over images"


def test_the_figures_for_the_safe() -> None:
    made, real = images(40, 0), images(30, 1)
    real[:3] = made[:3]
    real[3] = made[3] ^ 1
    data = PrivateImages(
        images=real, labels=None, class_names=None, owner=np.arange(30), unit_count=30, dropped=np.array([0])
    )
    space = Nearest(GREY, made)
    found = copy_report(
        data, made, *space.of(real), space.of(images(50, 2))[0], 0.5, np.array([0.0, 0.4, 0.9, np.inf]), 0.01
    )
    reached = found["held_out_to_training"]
    assert (reached["copies"], reached["nearer_than_threshold"]) == (1, 2)
    assert reached["quantiles"]["1"] is None
    assert (found["exact_copies"], found["pixel_copies"]) == (3, 4)
    assert [pair["training_image"] for pair in found["closest"][:4]] == [1, 2, 3, 4], "rows of the source"
    assert [pair["synthetic_image"] for pair in found["closest"][:4]] == [0, 1, 2, 3]
    assert found["nearer_than_threshold"]["training"] == pytest.approx(4 / 30)
    assert found["auc"]["mean"] > 0.5
