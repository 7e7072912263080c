"""The teacher's query: what one unit can change, that every number has noise, what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.evaluation.features import Features
from dp_diffusers.mechanisms.teacher import (
    NAME,
    Sums,
    noisy_sums,
    query_of,
    size_of,
    teacher_query,
    weights_of,
)
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import TeacherQuery
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.teaching.public_whitening import Whitening, whitening_of

CLASSES, WIDTH = 3, 6
RNG = np.random.default_rng(0)
WHITENING = Whitening(
    mean=RNG.normal(size=9).astype(np.float32), projection=RNG.normal(size=(9, WIDTH - 1)).astype(np.float32)
)
SIZES = (1, 2, 30, 1, 5)
KINDS = {
    "usual": lambda features: features,
    "duplicates": lambda features: np.broadcast_to(features[:1], features.shape),
    "huge": lambda features: features * np.float32(1e37),
    "NaN": lambda features: np.where(np.arange(features.size).reshape(features.shape) == 0, np.nan, features),
    "infinite": lambda features: np.full_like(features, np.inf),
    "the mean": lambda features: np.broadcast_to(WHITENING.mean, features.shape),
}


def units(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features and classes of each unit; the last unit is of the kind."""
    rng = np.random.default_rng(1)
    found = [
        (rng.normal(size=(size, 9)).astype(np.float32), rng.integers(-1, CLASSES, size)) for size in SIZES
    ]
    features, classes = found[-1]
    with np.errstate(invalid="ignore"):
        found[-1] = (KINDS[kind](features).astype(np.float32), np.maximum(classes, 0))
    return found


def summed(of: list[tuple[np.ndarray, np.ndarray]], *, per_image: bool = False) -> np.ndarray:
    """The exact sums over some units; per_image: the defect, each image counted as a unit."""
    sums = Sums(WIDTH, CLASSES)
    for features, classes in of:
        weight = np.full(len(classes), 1.0 if per_image else 1.0 / len(classes))
        sums.add(WHITENING.rows(features), classes.astype(np.int64), weight)
    return sums.vector


def moved(kind: str, **how: bool) -> float:
    """How far the sums move when the last unit leaves."""
    everyone = units(kind)
    return float(np.linalg.norm(summed(everyone, **how) - summed(everyone[:-1], **how)))


@pytest.mark.parametrize("kind", KINDS)
def test_guarantee_one_unit_moves_the_sums_by_at_most_one(kind: str) -> None:
    found = moved(kind)
    assert found <= 1 + 1e-12  # written so that NaN fails
    if kind in ("duplicates", "the mean"):
        assert found > 0.5, "the bound is nearly met"
    if kind == "infinite":
        assert found == 0.0


def test_guarantee_an_image_of_one_class_is_a_vector_of_length_one() -> None:
    one = [(np.ones((1, 9), np.float32), np.array([1]))]
    assert np.linalg.norm(summed(one)) == pytest.approx(1.0, abs=1e-12)
    unknown = [(np.ones((1, 9), np.float32), np.array([CLASSES]))]
    assert not summed(unknown).any(), "of no declared class: nothing"


def test_guarantee_rows_that_are_too_long_are_cut() -> None:
    for value in (3.0, 1e200, np.inf, np.nan):
        sums = Sums(WIDTH, CLASSES)
        sums.add(np.full((1, WIDTH), value), np.zeros(1, np.int64), np.ones(1))
        assert np.linalg.norm(sums.vector) <= 1 + 1e-12


@pytest.mark.planted
def test_planted_a_unit_that_counts_for_each_of_its_images() -> None:
    assert moved("duplicates", per_image=True) > 4, "the planted defect must be visible"


def test_sums_are_what_the_formula_says() -> None:
    """Oracle: one image at a time, outer products written out."""
    total = np.zeros(size_of(WIDTH, CLASSES))
    for features, classes in units("NaN"):
        for row, label in zip(WHITENING.rows(features), classes, strict=True):
            if label < 0 or not row.any():
                continue
            outer, slots = np.outer(row, row), np.zeros((CLASSES, WIDTH))
            slots[label] = row
            triangle = [
                outer[i, j] * (1 if i == j else math.sqrt(2)) for i in range(WIDTH) for j in range(i, WIDTH)
            ]
            total += np.concatenate([triangle, slots.ravel()]) / math.sqrt(2) / len(classes)
    assert summed(units("NaN")) == pytest.approx(total, abs=1e-12)


def test_guarantee_the_row_of_an_image_does_not_depend_on_the_others() -> None:
    """Blocks have one size, filled up, so that a network does the same arithmetic whoever else is there."""
    seen: list[int] = []

    def network(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1)[:, :9].astype(np.float32)

    images = RNG.integers(0, 255, (530, 3, 3, 1)).astype(np.uint8)
    features = Features(name="x", dim=9, function=network)
    whole = np.concatenate([rows for _, rows in WHITENING.of_images(features, images)])
    less = np.concatenate([rows for _, rows in WHITENING.of_images(features, images[1:])])
    assert np.array_equal(whole[1:], less)
    assert set(seen) == {512}
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.ones(530))


def rows_that_move() -> list[tuple[int, int]]:
    """(images there, dimensions) with which some image's row has other bits than among many."""
    rng, moved = np.random.default_rng(2), []
    shown = rng.normal(size=(512, 1280)).astype(np.float32)

    def network(images: np.ndarray) -> np.ndarray:
        return shown[images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)]

    features = Features(name="x", dim=1280, function=network)
    numbers = np.arange(512)
    images = np.stack([numbers % 256, numbers // 256], 1).astype(np.uint8).reshape(512, 1, 1, 2)
    for dimensions in (64, 128):
        projection = rng.normal(size=(1280, dimensions)).astype(np.float32)
        whitening = Whitening(mean=shown.mean(0), projection=projection)
        ((_, whole),) = whitening.of_images(features, images)
        for there in (*range(1, 14), 511):
            ((_, rows),) = whitening.of_images(features, images[:there])
            if not np.array_equal(rows, whole[:there]):
                moved.append((there, dimensions))
    return moved


def test_guarantee_a_row_has_the_same_bits_whoever_else_is_there() -> None:
    """A cluster is decided by rounded rows: one bit could move a whole count of another unit."""
    assert rows_that_move() == []


@pytest.mark.planted
def test_planted_rows_of_what_is_left_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_images(
        self: Whitening, features: Features, images: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        blank = np.zeros((512 - len(images), *images.shape[1:]), np.uint8)
        found = features.of(np.concatenate([images, blank]), finite=False)[: len(images)]
        yield slice(0, len(images)), self.rows(found)

    monkeypatch.setattr(Whitening, "of_images", of_images)
    assert rows_that_move(), "the planted defect must be visible"


def receipt(keys: RunKeys, **changed: Any) -> Receipt:
    facts = {"step": 0, "lane": keys.lane, "plan_fingerprint": "plan", "mechanism": NAME}
    return Receipt(**{**facts, **changed})


QUERY = TeacherQuery(classes=10, dimensions=99, noise_multiplier=7.0)
SIZE = size_of(100, 10)


def noise_accepted(noise_multiplier: float, claimed: float = 7.0) -> bool:
    """Whether triangle and slots have noise everywhere, of the claimed deviation to 8 of its deviations."""
    query, keys = (
        TeacherQuery(classes=10, dimensions=99, noise_multiplier=noise_multiplier),
        RunKeys.for_tests(3),
    )
    drawn = noisy_sums(query, np.zeros(SIZE), keys, receipt(keys), "plan")
    parts = drawn[: SIZE - 1000], drawn[SIZE - 1000 :]
    right = [abs(part.std() / claimed - 1) < 8 / math.sqrt(2 * len(part)) for part in parts]
    return all(right) and bool(drawn.all())


def test_guarantee_every_number_has_the_accounted_noise() -> None:
    assert noise_accepted(7.0)
    assert not noise_accepted(0.7 * 7.0)
    assert not noise_accepted(1.4 * 7.0)


@pytest.mark.planted
def test_planted_slots_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RunKeys.noise

    def partly(self: RunKeys, step: int, name: str, size: int) -> np.ndarray:
        drawn = right(self, step, name, size)
        drawn[-1000:] = 0
        return drawn

    monkeypatch.setattr(RunKeys, "noise", partly)
    assert not noise_accepted(7.0), "the planted defect must be visible"


def test_guarantee_noise_of_its_own_on_a_public_grid() -> None:
    keys = RunKeys.for_tests(1), RunKeys.for_tests(1, lane=bytes(16))
    one, other = (noisy_sums(QUERY, np.zeros(SIZE), each, receipt(each), "plan") for each in keys)
    assert not np.any(one == other)
    for name in ("parameters", "histogram"):
        assert abs(np.corrcoef(one, keys[0].noise(0, name, SIZE))[0, 1]) < 6 / math.sqrt(SIZE)
    step = 2.0**-18
    assert np.array_equal(one / step, np.round(one / step))


@pytest.mark.parametrize(
    "changed", [{"mechanism": "histogram"}, {"lane": bytes(16)}, {"plan_fingerprint": "x"}]
)
def test_guarantee_no_noise_without_the_receipt_of_this_query(changed: dict[str, Any]) -> None:
    keys = RunKeys.for_tests(0)
    with pytest.raises(GuaranteeError):
        noisy_sums(QUERY, np.zeros(SIZE), keys, receipt(keys, **changed), "plan")
    noisy_sums(QUERY, np.zeros(SIZE), keys, receipt(keys), "plan")
    with pytest.raises(GuaranteeError, match="teacher was already released"):
        noisy_sums(QUERY, np.ones(SIZE), keys, receipt(keys), "plan")


def analytic_epsilon(noise: float, delta: float, apart: float) -> float:
    """Oracle: the analytic Gaussian mechanism (Balle and Wang 2018, Theorem 8)."""

    def excess(eps: float) -> float:
        ratio = apart / noise
        first = stats.norm.cdf(ratio / 2 - eps / ratio)
        return float(first - math.exp(eps) * stats.norm.cdf(-ratio / 2 - eps / ratio) - delta)

    return float(optimize.brentq(excess, 1e-9, 200.0))


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_guarantee_alone_it_costs_its_share_of_the_budget(adjacency: str, share: float) -> None:
    query = teacher_query(Budget(2.0, 1e-5, adjacency=adjacency), 10, share=share)
    true = analytic_epsilon(query.noise_multiplier, 1e-5, 2.0 if adjacency == "replace" else 1.0)
    claimed = epsilon([query], 1e-5, adjacency)
    assert 0.99 * 2 * share < true <= claimed <= 2 * share * (1 + 1e-3)
    assert claimed <= 1.01 * true


def test_shares_and_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ParameterError, match="share"):
        teacher_query(Budget(2.0, 1e-5), 10, share=1.0)
    keys = RunKeys.for_tests(0)
    with pytest.raises(ParameterError, match="expected 6050 sums"):
        noisy_sums(QUERY, np.zeros(4), keys, receipt(keys), "plan")
    assert query_of(()) is None
    assert teacher_query(Budget(100.0, 1e-5), 10, share=0.9).noise_multiplier >= 0.3


def test_weights_are_ridge_regression_on_the_classes() -> None:
    """Oracle: ordinary ridge regression on the rows themselves."""
    everyone = units("usual")
    weight = np.concatenate([np.full(len(classes), 1 / len(classes)) for _, classes in everyone])
    rows = np.concatenate([WHITENING.rows(features) for features, _ in everyone])
    labels = np.concatenate([classes for _, classes in everyone])
    rows, weight, labels = rows[labels >= 0], weight[labels >= 0], labels[labels >= 0]
    ridge = 2 * 0.5 * math.sqrt(WIDTH) + 1e-3 * 40 / WIDTH
    left = (rows * weight[:, None]).T @ rows + ridge * np.eye(WIDTH)
    expected = np.linalg.solve(left, (rows * weight[:, None]).T @ np.eye(CLASSES)[labels])
    found = weights_of(summed(everyone), classes=CLASSES, population=40, noise_multiplier=0.5)
    assert found == pytest.approx(expected, abs=1e-10)


def test_whitening_gives_public_images_equal_spread() -> None:
    images = RNG.integers(0, 255, (400, 3, 3, 1)).astype(np.uint8)
    features = Features(name="x", dim=9, function=lambda images: images.reshape(len(images), -1))
    found = whitening_of(features, images, 4)
    z = (images.reshape(400, 9) - found.mean) @ found.projection
    assert np.cov(z.T) == pytest.approx(np.eye(4), abs=0.03)
    with pytest.raises(ParameterError, match="more images than that"):
        whitening_of(features, images[:4], 4)
    with pytest.raises(ParameterError, match="look alike"):
        whitening_of(features, np.zeros((10, 3, 3, 1), np.uint8), 4)
