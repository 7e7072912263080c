"""The query of moments: what one unit can change, that every number has noise, what is made of the sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms.moments import (
    NAME,
    Gaussians,
    Products,
    gaussians_of,
    moments_query,
    noisy_products,
    query_of,
    size_of,
)
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import MomentsQuery, record_from_dict
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.queries.frequencies import Frequencies

CLASSES, SIDE, DIMENSIONS = 3, 8, 12
SIZES = (1, 2, 30, 1, 5)
ASKED = Frequencies.coarsest(size=SIDE, channels=1, dimensions=DIMENSIONS)
KINDS = {
    "usual": lambda images: images,
    "duplicates": lambda images: np.broadcast_to(images[:1], images.shape),
    "black": np.zeros_like,
    "white": lambda images: np.full_like(images, 255),
}


def units(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and classes of each unit; the last unit is of the kind, and of known classes."""
    rng = np.random.default_rng(1)
    found = [
        (rng.integers(0, 256, (size, SIDE, SIDE, 1)).astype(np.uint8), rng.integers(-1, CLASSES, size))
        for size in SIZES
    ]
    images, classes = found[-1]
    found[-1] = (np.asarray(KINDS[kind](images)), np.maximum(classes, 0))
    return found


def summed(of: list[tuple[np.ndarray, np.ndarray]], *, per_image: bool = False) -> np.ndarray:
    """The exact sums over some units; per_image: the defect, each image counted as a unit."""
    products = Products(ASKED.width, CLASSES)
    for images, classes in of:
        weight = np.full(len(classes), 1.0 if per_image else 1.0 / len(classes))
        products.add(ASKED.rows(images), classes.astype(np.int64), weight)
    return products.vector


def moved(kind: str, **how: bool) -> float:
    """How far the sums move when the last unit leaves."""
    everyone = units(kind)
    return float(np.linalg.norm(summed(everyone, **how) - summed(everyone[:-1], **how)))


@pytest.mark.parametrize("kind", KINDS)
def test_guarantee_one_unit_moves_the_sums_by_at_most_one(kind: str) -> None:
    assert moved(kind) <= 1 + 1e-12  # written so that NaN fails


def test_guarantee_an_image_of_one_class_is_a_vector_of_length_one() -> None:
    images = units("usual")[2][0][:1]
    assert np.linalg.norm(summed([(images, np.array([1]))])) == pytest.approx(1.0, abs=1e-12)
    assert not summed([(images, np.array([CLASSES]))]).any(), "of no declared class: nothing"


@pytest.mark.parametrize("value", [3.0, 1e200, np.inf, np.nan])
def test_guarantee_rows_that_are_too_long_are_cut(value: float) -> None:
    products = Products(ASKED.width, CLASSES)
    products.add(np.full((1, ASKED.width), value), np.zeros(1, np.int64), np.ones(1))
    assert np.linalg.norm(products.vector) <= 1 + 1e-12


@pytest.mark.planted
def test_planted_a_unit_that_counts_for_each_of_its_images() -> None:
    assert moved("white", per_image=True) > 2, "the planted defect must be visible"


def test_sums_are_what_the_formula_says() -> None:
    """Oracle: one image at a time, outer products written out."""
    total = np.zeros((CLASSES, ASKED.width * (ASKED.width + 1) // 2))
    for images, classes in units("usual"):
        for row, label in zip(ASKED.rows(images), classes, strict=True):
            if label >= 0:
                outer = np.outer(row, row)
                total[label] += np.array(
                    [
                        outer[i, j] * (1 if i == j else math.sqrt(2)) / len(classes)
                        for i in range(ASKED.width)
                        for j in range(i, ASKED.width)
                    ]
                )
    assert summed(units("usual")) == pytest.approx(total.ravel(), abs=1e-12)


def receipt(keys: RunKeys, **changed: Any) -> Receipt:
    facts = {"step": 0, "lane": keys.lane, "plan_fingerprint": "plan", "mechanism": NAME}
    return Receipt(**{**facts, **changed})


QUERY = MomentsQuery(classes=4, dimensions=49, noise_multiplier=7.0)
SIZE = size_of(50, 4)


def noise_accepted(noise_multiplier: float, claimed: float = 7.0) -> bool:
    """Whether each class's part has noise everywhere, of the claimed deviation to 8 of its deviations."""
    query = MomentsQuery(classes=4, dimensions=49, noise_multiplier=noise_multiplier)
    keys = RunKeys.for_tests(3)
    drawn = noisy_products(query, np.zeros(SIZE), keys, receipt(keys), "plan")
    right = [abs(part.std() / claimed - 1) < 8 / math.sqrt(2 * len(part)) for part in np.split(drawn, 4)]
    return all(right) and bool(drawn.all())


def test_guarantee_every_number_has_the_accounted_noise() -> None:
    assert noise_accepted(7.0)
    assert not noise_accepted(0.7 * 7.0)
    assert not noise_accepted(1.4 * 7.0)


@pytest.mark.planted
def test_planted_one_class_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RunKeys.noise

    def partly(self: RunKeys, step: int, name: str, size: int) -> np.ndarray:
        drawn = right(self, step, name, size)
        drawn[: size // 4] = 0
        return drawn

    monkeypatch.setattr(RunKeys, "noise", partly)
    assert not noise_accepted(7.0), "the planted defect must be visible"


@pytest.mark.parametrize(
    "changed", [{"mechanism": "teacher"}, {"lane": bytes(16)}, {"plan_fingerprint": "x"}]
)
def test_guarantee_no_noise_without_the_receipt_of_this_query(changed: dict[str, Any]) -> None:
    keys = RunKeys.for_tests(0)
    with pytest.raises(GuaranteeError):
        noisy_products(QUERY, np.zeros(SIZE), keys, receipt(keys, **changed), "plan")
    noisy_products(QUERY, np.zeros(SIZE), keys, receipt(keys), "plan")
    with pytest.raises(GuaranteeError, match="moments was already released"):
        noisy_products(QUERY, np.ones(SIZE), keys, receipt(keys), "plan")


def test_guarantee_its_noise_is_not_that_of_another_query() -> None:
    keys = RunKeys.for_tests(1)
    drawn = noisy_products(QUERY, np.zeros(SIZE), keys, receipt(keys), "plan")
    for name in ("parameters", "histogram", "teacher"):
        assert abs(np.corrcoef(drawn, keys.noise(0, name, SIZE))[0, 1]) < 6 / math.sqrt(SIZE)


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace"])
def test_guarantee_alone_it_costs_its_share_of_the_budget(adjacency: str) -> None:
    """Oracle: the analytic Gaussian mechanism (Balle and Wang 2018, Theorem 8)."""
    query = moments_query(Budget(2.0, 1e-5, adjacency=adjacency), 10, share=0.5)
    claimed = epsilon([query], 1e-5, adjacency)
    ratio = (2.0 if adjacency == "replace" else 1.0) / query.noise_multiplier
    true_delta = stats.norm.cdf(ratio / 2 - claimed / ratio) - math.exp(claimed) * stats.norm.cdf(
        -ratio / 2 - claimed / ratio
    )
    assert 0.97 <= claimed <= 1.0 * (1 + 1e-3)
    assert 0.9e-5 < true_delta <= 1e-5


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ParameterError, match="share"):
        moments_query(Budget(2.0, 1e-5), 10, share=1.0)
    keys = RunKeys.for_tests(0)
    with pytest.raises(ParameterError, match="expected 5100 sums"):
        noisy_products(QUERY, np.zeros(4), keys, receipt(keys), "plan")
    assert query_of(()) is None
    assert query_of([record_from_dict(QUERY.to_dict())]) == QUERY


def gaussian_sums(count: int, noise: float) -> tuple[Gaussians, np.ndarray, list[np.ndarray]]:
    """What is made of rows of two known Gaussians in four numbers, one with three of its own directions."""
    rng = np.random.default_rng(5)
    means = np.array([[0.3, 0.0, -0.2, 0.1, 0.0, 0.0], [-0.1, 0.2, 0.0, 0.0, 0.2, 0.0]])
    spreads = [np.diag([0.3, 0.2, 0.1, 0.02, 0.02, 0.02]), np.diag([0.02, 0.02, 0.3, 0.2, 0.1, 0.02])]
    products = Products(7, 2)
    for k in range(2):
        v = means[k] + rng.normal(size=(count, 6)) @ spreads[k]
        products.add(rows_of(v), np.full(count, k), np.ones(count))
    sums = products.vector
    return (
        gaussians_of(sums + noise * rng.normal(size=len(sums)), classes=2, noise_multiplier=noise),
        means,
        [spread @ spread for spread in spreads],
    )


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_means_and_spreads_come_back(noise: float) -> None:
    """Rows are weighted by 1 / (1 + |v|^2), which draws means and spreads in a little."""
    found, means, covariances = gaussian_sums(20_000, noise)
    assert found.means == pytest.approx(means, abs=0.06)
    for root, covariance in zip(found.roots, covariances, strict=True):
        assert root @ root.T == pytest.approx(covariance, abs=0.02)
    drawn = found.draw(np.arange(40_000) % 2, np.random.default_rng(0))
    assert drawn[::2].mean(0) == pytest.approx(found.means[0], abs=0.01)
    assert np.cov(drawn[1::2].T) == pytest.approx(found.roots[1] @ found.roots[1].T, abs=0.01)


def rows_of(v: np.ndarray) -> np.ndarray:
    rows = np.concatenate([v, np.ones((len(v), 1))], 1)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_a_class_that_the_noise_hides_is_like_all() -> None:
    """One class of very many, three of nobody."""
    products = Products(30, 4)
    v = 0.3 + 0.1 * np.random.default_rng(1).normal(size=(5000, 29))
    products.add(rows_of(v), np.zeros(5000, np.int64), np.ones(5000))
    noise = np.random.default_rng(0).normal(size=size_of(30, 4)) * 10
    found = gaussians_of(products.vector + noise, classes=4, noise_multiplier=10.0)
    assert np.array_equal(found.means[1], found.means[3])
    assert np.array_equal(found.roots[1], found.roots[3])
    assert found.means[2] == pytest.approx(found.means[0], abs=0.05)


def test_without_anyone_nothing_is_known_and_everything_is_finite() -> None:
    noise = np.random.default_rng(0).normal(size=size_of(30, 4)) * 10
    found = gaussians_of(noise, classes=4, noise_multiplier=10.0)
    assert np.isfinite(found.means).all()
    assert not found.roots.any()


def test_images_that_are_all_alike_do_not_vary_by_the_noise() -> None:
    products = Products(60, 2)
    rows = rows_of(np.full((20_000, 59), 0.02))
    products.add(rows, np.arange(20_000) % 2, np.ones(20_000))
    noise = np.random.default_rng(0).normal(size=size_of(60, 2)) * 30
    found = gaussians_of(products.vector + noise, classes=2, noise_multiplier=30.0)
    assert np.abs(found.roots).max() < 1e-6
    believed = gaussians_of(products.vector + noise, classes=2, noise_multiplier=0.3)
    assert np.abs(believed.roots).max() > 0.05, "with a smaller edge the noise would be seen"


def test_eigenvalues_are_what_they_were_before_the_noise() -> None:
    """Oracle: one direction, whose variance is as large as the edge: noise raises it by a quarter."""
    rng, width, count = np.random.default_rng(2), 61, 4000
    products, v = Products(width, 1), np.zeros((count, width - 1))
    v[:, 0] = rng.normal(size=count) * 0.5
    products.add(rows_of(v), np.zeros(count, np.int64), np.ones(count))
    clean = gaussians_of(products.vector, classes=1, noise_multiplier=0.0)
    truth = np.linalg.norm(clean.roots[0], 2) ** 2
    noise = truth * products.vector[-1] / math.sqrt(2 * width)
    tops = []
    for _ in range(40):
        sums = products.vector + noise * rng.normal(size=len(products.vector))
        found = gaussians_of(sums, classes=1, noise_multiplier=noise)
        tops.append(np.linalg.norm(found.roots[0], 2) ** 2)
    assert np.mean(tops) == pytest.approx(truth, rel=0.05)


def test_more_numbers_than_fit_are_refused_before_they_cost_anything() -> None:
    with pytest.raises(ParameterError, match="more than 67,108,864 numbers"):
        moments_query(Budget(2.0, 1e-5), 1000, dimensions=1024)
