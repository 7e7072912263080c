"""A charged count: what one unit can change, what it costs by another's computation, what it opens for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, pld
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms.count import Count, count_std, noisy_count, unit_total
from dp_diffusers.plan import Plan
from dp_diffusers.plan_checks import mechanism_of
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import record_from_dict, training_record
from dp_diffusers.privacy.receipt import Receipt

Units = list[list[float]]
Total = Callable[[Units], float]
anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
units = st.lists(st.lists(anything, min_size=0, max_size=40), min_size=1, max_size=6)
DELTA = 1e-5
RELATIONS = {
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "replace": NeighboringRelation.REPLACE_ONE,
}


def flat(images: Units) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([value for unit in images for value in unit], np.float64)
    owner = np.array([index for index, unit in enumerate(images) for _ in unit], np.int64)
    return values, owner


def total(images: Units) -> float:
    return unit_total(*flat(images), len(images))


def per_image(images: Units) -> float:
    """The defect: every image counts, whoever's it is."""
    return float(np.clip(np.nan_to_num(flat(images)[0], posinf=0, neginf=0), 0, 1).sum())


def most_moved(images: Units, other: list[float], count: Total) -> float:
    """By how much the last unit moves the count: gone, without images, or with other ones."""
    neighbours = [images[:-1], [*images[:-1], []], [*images[:-1], other]]
    return max(abs(count(images) - count(neighbour)) for neighbour in neighbours)


@settings(max_examples=60)
@given(units, st.lists(anything, max_size=40))
def test_guarantee_one_unit_moves_the_count_by_at_most_one(images: Units, other: list[float]) -> None:
    assert most_moved(images, other, total) <= 1.0


@pytest.mark.planted
def test_planted_count_of_images() -> None:
    assert most_moved([[0.0], [1.0] * 30], [0.0], per_image) > 1.0, "the planted defect must be visible"


def test_means_are_exact_and_do_not_depend_on_the_order() -> None:
    assert total([[1.0, 0.0], [1.0], [0.25]]) == 1.75
    rng = np.random.default_rng(0)
    values, owner = rng.random(3000), np.sort(rng.integers(0, 700, 3000))
    order = rng.permutation(3000)
    one = unit_total(values, owner, 700)
    assert one == unit_total(values[order], owner[order], 700)
    sums, images = np.bincount(owner, values, 700), np.bincount(owner, minlength=700)
    assert one == pytest.approx((sums / np.maximum(images, 1)).sum(), abs=700 * 2**-23)


@pytest.mark.parametrize(
    ("value", "part"), [(math.nan, 0), (math.inf, 0), (-math.inf, 0), (-3, 0), (7, 1), (0.5, 0.5)]
)
def test_what_a_value_counts_as(value: float, part: float) -> None:
    assert total([[value], [1.0]]) == 1 + part
    assert total([[value, 1.0]]) == (1 + part) / 2


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match="for each of 2 images"):
        unit_total(np.zeros(3), np.zeros(2, np.int64), 1)


def epsilon_by_dp_accounting(noise_multiplier: float, adjacency: str) -> float:
    """Of one Gaussian mechanism, by dp_accounting alone."""
    accountant = pld.PLDAccountant(RELATIONS[adjacency], 1e-4)
    return float(accountant.compose(GaussianDpEvent(noise_multiplier)).get_epsilon(DELTA))


@pytest.mark.parametrize("adjacency", [pytest.param(name, marks=pytest.mark.slow) for name in RELATIONS])
def test_guarantee_it_costs_what_it_says(adjacency: str) -> None:
    budget = Budget(0.5, DELTA, adjacency=adjacency)
    plan = Plan.calibrate(budget, Count(population=5000))
    assert plan.epsilon == pytest.approx(epsilon_by_dp_accounting(plan.noise_multiplier, adjacency), rel=1e-3)
    assert 0.99 * 0.5 <= plan.epsilon <= 0.5
    assert not 0.99 * 0.5 <= epsilon_by_dp_accounting(0.95 * plan.noise_multiplier, adjacency) <= 0.5
    assert Plan.from_json(plan.to_json()) == plan
    assert f"noise of {math.floor(1e4 * plan.noise_multiplier) / 1e4:.4f}" in plan.explain()
    with pytest.raises(ParameterError, match="no gradient"):
        plan.private_gradient([], RunKeys.for_tests(0))


def test_a_record_of_a_count_is_one_full_batch_event() -> None:
    record = Count(population=100).record(2.0)
    assert (record.name, record.steps, record.sampling, record.clip_norm) == ("count", 1, "none", 1.0)
    assert training_record(record.to_dict()) == record_from_dict(record.to_dict()) == record
    assert mechanism_of(record) == Count(population=100)
    with pytest.raises(ParameterError, match="not a plan of a count"):
        mechanism_of(record.with_steps(2))
    with pytest.raises(ParameterError, match="population"):
        Count(population=0)


def receipt(keys: RunKeys, **changed: Any) -> Receipt:
    return Receipt(**{"step": 0, "lane": keys.lane, "plan_fingerprint": "plan", **changed})


def drawn(seed: int, noise_multiplier: float = 2.0) -> float:
    keys = RunKeys.for_tests(seed)
    return noisy_count(10.0, keys, receipt(keys), noise_multiplier=noise_multiplier, plan_fingerprint="plan")


def test_guarantee_the_noise_is_the_accounted_one() -> None:
    """Of 1,000 lanes the deviation is known to 2.2 %: 7 % are let pass, noise that is 15 % off is seen."""
    found = float(np.std([drawn(seed) - 10 for seed in range(1000)]))
    assert abs(found / count_std(2.0) - 1) < 0.07
    assert abs(found / count_std(2.0 * 0.85) - 1) > 0.07
    assert abs(found / count_std(2.0 * 1.15) - 1) > 0.07
    assert count_std(2.0) >= 2.0


@pytest.mark.parametrize("changed", [{"mechanism": "count"}, {"lane": bytes(16)}, {"plan_fingerprint": "x"}])
def test_guarantee_no_noise_without_the_receipt_of_this_count(changed: dict[str, Any]) -> None:
    keys = RunKeys.for_tests(0)
    ask = {"noise_multiplier": 1.0, "plan_fingerprint": "plan"}
    with pytest.raises(GuaranteeError):
        noisy_count(0.0, keys, receipt(keys, **changed), **ask)
    with pytest.raises(GuaranteeError, match="needs the ledger's receipt"):
        noisy_count(0.0, keys, None, **ask)
    noisy_count(0.0, keys, receipt(keys), **ask)
    with pytest.raises(GuaranteeError, match="released"):
        noisy_count(0.0, keys, receipt(keys), **ask)
