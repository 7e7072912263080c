"""The votes of Private Evolution: what one unit can change, how much noise there is, and where."""

from __future__ import annotations

from typing import Any

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_diffusers.engine.noise import grid, noise_std
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.evolution import features as evolution_features
from dp_diffusers.evolution.features import nearest, pixels
from dp_diffusers.mechanisms import evolution
from dp_diffusers.mechanisms.evolution import PE, VOTE, noisy_votes, votes
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.receipt import Receipt

SAMPLES, SIZE = 7, 3
value = st.sampled_from([0.0, 1.0, 2.0, -3.0, 1e30, float("nan"), float("inf"), 0.5])
image = st.tuples(st.lists(value, min_size=SIZE, max_size=SIZE), st.integers(-1, 2))
units = st.lists(st.lists(image, min_size=1, max_size=12), min_size=1, max_size=5)
SYNTHETIC = np.array(
    [[0, 0, 0], [1, 1, 1], [1, 1, 1], [2, 0, -3], [0, 0, 0], [np.nan, 0, 0], [9, 9, 9]], float
)
KINDS = np.array([0, 0, 0, 1, 1, 1, 2])


def counted(people: list[list[Any]]) -> np.ndarray:
    """The votes of some units' images, each with features and a class."""
    images = [each for person in people for each in person]
    owner = np.array([index for index, person in enumerate(people) for _ in person], np.int64)
    features = np.array([each[0] for each in images], float)
    classes = np.array([each[1] for each in images], np.int64)
    return votes(nearest(features, SYNTHETIC, classes, KINDS), owner, len(people), SAMPLES)


def moved(people: list[list[Any]]) -> float:
    """How far the votes move, in the Euclidean norm, when the last unit is not there."""
    whole = counted(people)
    rest = counted(people[:-1]) if len(people) > 1 else np.zeros(SAMPLES)
    return float(np.linalg.norm(whole - rest))


@given(units)
@settings(deadline=None)
def test_guarantee_one_unit_moves_the_votes_by_at_most_one(people: list[list[Any]]) -> None:
    assert moved(people) <= 1.0


@pytest.mark.planted
def test_planted_one_vote_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def per_image(place: np.ndarray, owner: np.ndarray, unit_count: int, samples: int) -> np.ndarray:
        return np.bincount(place[place >= 0], minlength=samples).astype(float)

    monkeypatch.setitem(globals(), "votes", per_image)
    assert moved([[([0, 0, 0], 0)], [([9, 9, 9], 2)] * 5]) == 5.0, "the planted defect must be visible"


def test_ties_go_to_the_first_and_images_that_are_not_finite_vote_for_nobody() -> None:
    features = np.array([[1, 1, 1], [0.5, 0.5, 0.5], [np.nan, 1, 1], [1, 1, 1], [0, 0, 0]], float)
    found = nearest(features, SYNTHETIC, np.array([0, 0, 0, -1, 1]), KINDS)
    assert found.tolist() == [1, 0, -1, -1, 4]


def same_whoever_is_there(features: np.ndarray, synthetic: np.ndarray) -> bool:
    """Whether each image votes alike alone, in any order, and among the others."""
    together = nearest(features, synthetic)
    backwards = nearest(features[::-1], synthetic)[::-1]
    alone = np.concatenate([nearest(each[None], synthetic) for each in features])
    return bool(np.array_equal(together, alone) and np.array_equal(together, backwards))


def near_ties() -> tuple[np.ndarray, np.ndarray]:
    """Images that lie between two others, to the last bit and beyond."""
    rng = np.random.default_rng(0)
    synthetic = rng.integers(0, 256, (40, 200)).astype(float)
    pairs = rng.integers(0, 40, (300, 2))
    return (synthetic[pairs[:, 0]] + synthetic[pairs[:, 1]]) / 2, synthetic


def test_guarantee_a_vote_depends_on_its_own_image_alone() -> None:
    assert same_whoever_is_there(*near_ties())


@pytest.mark.planted
def test_planted_distances_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features as a network gives them, rounded to nothing: sums differ by how many rows are multiplied."""

    def rounded(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        a, b = mine.astype(np.float32) / 255, theirs.astype(np.float32) / 255
        jitter = np.float32(1e-7) * len(a)  # what another kernel for another shape does to the last bits
        return ((b**2).sum(1) - 2 * (a @ b.T) + jitter * np.arange(len(b), dtype=np.float32)).argmin(1)

    monkeypatch.setattr(evolution_features, "_nearest", rounded)
    assert not same_whoever_is_there(*near_ties()), "the planted defect must be visible"


def test_pixels_are_whole_mean_grey_values_of_blocks() -> None:
    images = np.zeros((2, 28, 28, 1), np.uint8)
    images[1, :2, :2] = 255
    found = pixels(images)
    assert found.shape == (2, 14 * 14)
    assert found[1, 0] == 255
    assert found[1, 1:].sum() == found[0].sum() == 0
    assert pixels(np.full((1, 33, 33, 3), 7, np.uint8)).tolist() == [[7.0] * (11 * 11 * 3)]
    assert pixels(np.full((1, 8, 8, 1), 9, np.uint8)).shape == (1, 64)


def receipt(keys: RunKeys, **changed: Any) -> Receipt:
    return Receipt(**{"step": 2, "lane": keys.lane, "plan_fingerprint": "plan", **changed})


def released(counts: np.ndarray, keys: RunKeys, noise: float = 3.0) -> np.ndarray:
    numbers: dict[str, Any] = {"step": 2, "noise_multiplier": noise, "plan_fingerprint": "plan"}
    return noisy_votes(counts, keys, receipt(keys), **numbers)


def noise_accepted(noise: float, claimed: float) -> bool:
    """Whether the noise of 40,000 counts has the claimed standard deviation, to 2 % (five deviations)."""
    drawn = released(np.zeros(40_000), RunKeys.for_tests(3), noise)
    return abs(float(np.std(drawn)) / claimed - 1.0) < 0.02


def test_guarantee_the_noise_of_votes_is_the_accounted_one() -> None:
    assert noise_accepted(3.0, 3.0)
    assert not noise_accepted(0.95 * 3.0, 3.0)
    assert not noise_accepted(1.05 * 3.0, 3.0)


def every_count_has_noise() -> bool:
    """Also counts of 0: whoever voted alone for an image would be seen otherwise."""
    counts = np.zeros(500)
    counts[:3] = 4.0
    return bool(np.all(released(counts, RunKeys.for_tests(1)) != counts))


def test_guarantee_images_without_votes_get_noise_too() -> None:
    assert every_count_has_noise()


@pytest.mark.planted
def test_planted_noise_on_voted_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = noisy_votes

    def sparing(counts: np.ndarray, *rest: Any, **named: Any) -> np.ndarray:
        return np.where(counts > 0, real(counts, *rest, **named), 0.0)

    monkeypatch.setitem(globals(), "noisy_votes", sparing)
    assert not every_count_has_noise(), "the planted defect must be visible"


@pytest.mark.parametrize(
    "changed", [{"step": 1}, {"lane": bytes(16)}, {"plan_fingerprint": "x"}, {"mechanism": "y"}]
)
def test_guarantee_no_votes_without_the_receipt_of_this_iteration(changed: dict[str, Any]) -> None:
    keys = RunKeys.for_tests(0)
    numbers: dict[str, Any] = {"step": 2, "noise_multiplier": 1.0, "plan_fingerprint": "plan"}
    for paid in (receipt(keys, **changed), None):
        with pytest.raises(GuaranteeError):
            noisy_votes(np.zeros(2), keys, paid, **numbers)


def test_guarantee_an_iteration_is_released_once_by_each_set_of_keys() -> None:
    keys = RunKeys.for_tests(0)
    first = released(np.zeros(50), keys)
    with pytest.raises(GuaranteeError, match="already released"):
        released(np.ones(50), keys)
    other = released(np.zeros(50), RunKeys.for_tests(0, lane=bytes(16)))
    assert not np.any(first == other)
    assert not np.any(first == RunKeys.for_tests(0).noise(2, "parameters", 50))


def test_guarantee_the_event_is_what_sampler_and_noise_do() -> None:
    """Every unit is in every iteration, so the event is that of plain Gaussians."""
    mechanism, keys = PE(steps=4, population=50), RunKeys.for_tests(0)
    taking_part = [mechanism.sampler(50, keys).units(step).tolist() for step in range(20)]
    assert taking_part == [list(range(50))] * 20
    record = mechanism.record(2.5)
    gaussian = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(2.5), 4)
    for adjacency, relation in (
        ("add_remove", dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE),
        ("zero_out", dp_accounting.NeighboringRelation.REPLACE_SPECIAL),
        ("replace", dp_accounting.NeighboringRelation.REPLACE_ONE),
    ):
        oracle = dp_accounting.pld.PLDAccountant(relation, 1e-4).compose(gaussian).get_epsilon(1e-5)
        assert epsilon([record], 1e-5, adjacency) == pytest.approx(oracle, rel=1e-3)
    assert epsilon([record], 1e-5) == pytest.approx(gaussian_epsilon(2.0 / 2.5, 1e-5), rel=1e-3)
    assert record.sampling == "none"


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of the mu-Gaussian mechanism, by bisection of its closed form (Balle and Wang 2018)."""
    from scipy.stats import norm

    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        found = norm.cdf(mu / 2 - middle / mu) - np.exp(middle) * norm.cdf(-mu / 2 - middle / mu)
        low, high = (middle, high) if found > delta else (low, middle)
    return high


def test_a_plan_of_votes() -> None:
    plan = Plan.calibrate(Budget(4.0, 1e-5), PE(steps=6, population=2_000))
    assert 3.96 <= plan.epsilon <= 4.0
    assert plan.noise_multiplier == pytest.approx(
        6**0.5 * Plan.calibrate(Budget(4.0, 1e-5), PE(steps=1, population=2_000)).noise_multiplier, rel=2e-3
    )
    assert Plan.from_json(plan.to_json()) == plan
    assert "has one vote" in plan.explain()
    altered = plan.to_dict()
    altered["mechanism"] = {**altered["mechanism"], "clip_norm": 2.0}
    with pytest.raises(ParameterError, match="one vote"):
        Plan.from_json(altered)
    with pytest.raises(ParameterError, match="trains nothing"):
        plan.private_gradient([], RunKeys.for_tests(0))
    with pytest.raises(ParameterError, match="steps"):
        PE(steps=0, population=5)
    assert evolution.VOTE == 1.0


def test_guarantee_each_iteration_has_noise_of_its_own_on_the_grid() -> None:
    keys, std = RunKeys.for_tests(0), noise_std(VOTE, 3.0)
    first, second = (
        noisy_votes(
            np.zeros(50),
            keys,
            Receipt(step=step, lane=keys.lane, plan_fingerprint="plan"),
            step=step,
            noise_multiplier=3.0,
            plan_fingerprint="plan",
        )
        for step in (0, 1)
    )
    assert not np.any(first == second)
    assert np.abs(first - RunKeys.for_tests(0).noise(0, "votes", 50) * std).max() <= grid(std)
    assert not np.any(first % grid(std))


def test_guarantee_private_features_are_rounded_as_synthetic_ones_are() -> None:
    assert nearest(np.array([[0.6]]), np.array([[2.0], [0.0]])).tolist() == [0]
