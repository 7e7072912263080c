"""The class histogram: what one unit can change, how much noise there is, what it opens for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms import histogram
from dp_diffusers.mechanisms.histogram import class_counts, histogram_query, noisy_counts, proportions
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.privacy.receipt import Receipt

CLASSES = 5
units = st.lists(st.lists(st.integers(-1, CLASSES - 1), min_size=1, max_size=40), min_size=1, max_size=6)


def flat(images: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    position = np.array([label for unit in images for label in unit], np.int64)
    owner = np.array([index for index, unit in enumerate(images) for _ in unit], np.int64)
    return position, owner


def counted(images: list[list[int]]) -> np.ndarray:
    return class_counts(*flat(images), len(images), CLASSES)


def moves_by_more_than_one(images: list[list[int]]) -> bool:
    """Whether the last unit moves the counts by more than 1, in the presence or absence of its images."""
    blank = [*images[:-1], [-1] * len(images[-1])]
    return float(np.linalg.norm(counted(images) - counted(blank))) > 1.0


@given(units)
def test_guarantee_one_unit_moves_the_counts_by_at_most_one(images: list[list[int]]) -> None:
    assert not moves_by_more_than_one(images)
    if len(images) > 1:
        assert np.linalg.norm(counted(images) - counted(images[:-1])) <= 1.0


@pytest.mark.planted
def test_planted_one_count_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def per_image(position: Any, owner: Any, unit_count: int, classes: int) -> np.ndarray:
        return np.bincount(position[position >= 0], minlength=classes).astype(float)

    monkeypatch.setitem(globals(), "class_counts", per_image)
    assert moves_by_more_than_one([[0], [1] * 30]), "the planted defect must be visible"


def test_counts_are_exact_and_do_not_depend_on_the_order() -> None:
    assert counted([[0], [0], [2]]).tolist() == [2, 0, 1, 0, 0]
    rng = np.random.default_rng(0)
    position, owner = rng.integers(0, CLASSES, 3000), np.sort(rng.integers(0, 700, 3000))
    owner = np.unique(owner, return_inverse=True)[1]
    order = rng.permutation(3000)
    one = class_counts(position, owner, int(owner.max()) + 1, CLASSES)
    assert np.array_equal(one, class_counts(position[order], owner[order], int(owner.max()) + 1, CLASSES))
    assert one.sum() == pytest.approx(owner.max() + 1, abs=1e-4)


def receipt(keys: RunKeys, **changed: Any) -> Receipt:
    facts = {"step": 0, "lane": keys.lane, "plan_fingerprint": "plan", "mechanism": "histogram"}
    return Receipt(**{**facts, **changed})


def noise_accepted(noise_multiplier: float, claimed: float) -> bool:
    """Whether the noise of 40,000 classes has the claimed standard deviation, to 2 % (eight deviations)."""
    query, keys = HistogramQuery(classes=40_000, noise_multiplier=noise_multiplier), RunKeys.for_tests(3)
    drawn = noisy_counts(query, np.zeros(40_000), keys, receipt(keys), "plan")
    return abs(float(np.std(drawn)) / claimed - 1.0) < 0.02


def test_guarantee_the_noise_is_the_accounted_one() -> None:
    assert noise_accepted(7.0, 7.0)
    assert not noise_accepted(0.95 * 7.0, 7.0)
    assert not noise_accepted(1.05 * 7.0, 7.0)


def test_guarantee_lanes_and_queries_have_noise_of_their_own() -> None:
    query = HistogramQuery(classes=50, noise_multiplier=1.0)
    keys = RunKeys.for_tests(1), RunKeys.for_tests(1, lane=bytes(16))
    one, other = (noisy_counts(query, np.zeros(50), each, receipt(each), "plan") for each in keys)
    assert not np.any(one == other)
    assert not np.any(one == keys[0].noise(0, "parameters", 50))
    step = 2.0**-20
    assert np.array_equal(one / step, np.round(one / step)), "on a grid that public numbers decide"


@pytest.mark.parametrize("changed", [{"mechanism": "step"}, {"lane": bytes(16)}, {"plan_fingerprint": "x"}])
def test_guarantee_no_noise_without_the_receipt_of_this_query(changed: dict[str, Any]) -> None:
    query, keys = HistogramQuery(classes=2, noise_multiplier=1.0), RunKeys.for_tests(0)
    with pytest.raises(GuaranteeError):
        noisy_counts(query, np.zeros(2), keys, receipt(keys, **changed), "plan")
    used = receipt(keys)
    noisy_counts(query, np.zeros(2), keys, used, "plan")
    with pytest.raises(GuaranteeError, match="before"):
        noisy_counts(query, np.zeros(2), keys, used, "plan")


def difference_of_two_ledgers(keys: RunKeys) -> np.ndarray:
    """Two data sets that differ in one unit, each with a ledger that paid; the same keys draw for both."""
    query = HistogramQuery(classes=3, noise_multiplier=2.0)
    counts = np.array([5.0, 2.0, 0.0]), np.array([5.0, 3.0, 0.0])
    first, second = (noisy_counts(query, each, keys, receipt(keys), "plan") for each in counts)
    return second - first


def test_guarantee_the_noise_of_a_query_is_drawn_once_whatever_was_paid_where() -> None:
    keys = RunKeys.for_tests(0)
    with pytest.raises(GuaranteeError, match="histogram was already released"):
        difference_of_two_ledgers(keys)
    assert keys.claimed(0, "histogram")
    assert not keys.claimed(0), "a step of the training is another thing"


@pytest.mark.planted
def test_planted_noise_of_a_query_that_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunKeys, "claim", lambda self, step, query=None: None)
    found = difference_of_two_ledgers(RunKeys.for_tests(0))
    assert found == pytest.approx([0, 1, 0], abs=1e-6), "the planted defect must be visible"


def test_counts_of_other_classes_are_refused() -> None:
    query, keys = HistogramQuery(classes=2, noise_multiplier=1.0), RunKeys.for_tests(0)
    with pytest.raises(ParameterError, match="2 classes"):
        noisy_counts(query, np.zeros(3), keys, receipt(keys), "plan")


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace"])
def test_alone_it_costs_a_tenth_of_the_budget(adjacency: str) -> None:
    query = histogram_query(Budget(5.0, 1e-5, adjacency=adjacency), 10)
    assert 0.98 * 0.5 < epsilon([query], 1e-5, adjacency) <= 0.5


def test_proportions() -> None:
    assert proportions([3.0, -2.0, 1.0]) == (0.75, 0.0, 0.25)
    assert proportions([-1.0, 0.0]) == (0.5, 0.5)
    assert histogram.query_of(()) is None
