"""Units counted by cluster and class: what one unit can change, what is released, what it costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms import teacher
from dp_diffusers.mechanisms.teacher import (
    cluster_counts,
    counts_of,
    noisy_sums,
    numbers_of,
    size_of,
    teacher_query,
)
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import TeacherQuery, record_from_dict
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.teaching import count_regression
from dp_diffusers.teaching.public_clusters import FINE, Clusters, clusters_of
from dp_diffusers.teaching.public_whitening import Whitening
from dp_diffusers.teaching.teacher import Teacher
from dp_diffusers.teaching.teacher_kinds import Counted, Linear, kind_of

CLUSTERS, CLASSES = 12, 3
SIZES = (1, 2, 30, 1, 5)
KINDS = ("one cluster", "spread", "no cluster", "no class", "beyond")


def units(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cluster and class of the images of each unit; the last unit is of the kind."""
    rng = np.random.default_rng(1)
    found = [(rng.integers(0, CLUSTERS, size), rng.integers(0, CLASSES, size)) for size in SIZES]
    cluster, position = found[-1]
    one, far = np.full_like(cluster, 4), np.full_like(cluster, CLUSTERS + 100)
    found[-1] = {
        "one cluster": (one, np.ones_like(position)),
        "spread": (cluster, position),
        "no cluster": (-one, position),
        "no class": (one, -np.ones_like(position)),
        "beyond": (far, position),
    }[kind]
    return found


def counts(of: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    owner = np.repeat(np.arange(len(of)), [len(cluster) for cluster, _ in of])
    cluster, position = (np.concatenate(parts).astype(np.int64) for parts in zip(*of, strict=True))
    return cluster_counts(CLUSTERS, CLASSES, cluster, position, owner, len(of))


@pytest.mark.parametrize("kind", KINDS)
def test_guarantee_one_unit_moves_the_counts_by_at_most_one(kind: str) -> None:
    everyone = units(kind)
    moved = np.abs(counts(everyone) - counts(everyone[:-1]))
    assert moved.sum() <= 1.0, "exactly: shares are multiples of 2^-30"
    assert moved.sum() == pytest.approx(1.0 if kind in ("one cluster", "spread") else 0.0, abs=1e-8)


@pytest.mark.planted
def test_planted_images_counted_as_units(monkeypatch: pytest.MonkeyPatch) -> None:
    def each(place: np.ndarray, owner: np.ndarray, unit_count: int, cells: int) -> np.ndarray:
        return np.bincount(place[place >= 0], minlength=cells).astype(float)

    monkeypatch.setattr(teacher, "class_counts", each)
    everyone = units("one cluster")
    assert np.linalg.norm(counts(everyone) - counts(everyone[:-1])) > 4


def test_counts_are_those_of_one_image_at_a_time() -> None:
    expected = np.zeros((CLUSTERS, CLASSES))
    for cluster, position in units("spread"):
        for place, label in zip(cluster, position, strict=True):
            expected[place, label] += 1 / len(cluster)
    assert counts(units("spread")).reshape(CLUSTERS, CLASSES) == pytest.approx(expected, abs=1e-7)


def noisy(size: int, **changed: Any) -> np.ndarray:
    """Counts of nobody, released by a receipt for just that, or a changed one."""
    query, keys = (
        TeacherQuery(classes=50, dimensions=8, noise_multiplier=4.0, clusters=400),
        RunKeys.for_tests(3),
    )
    facts = {"step": 0, "lane": keys.lane, "plan_fingerprint": "plan", "mechanism": "teacher", **changed}
    return noisy_sums(query, np.zeros(size), keys, Receipt(**facts), "plan")


def test_guarantee_every_count_has_noise_empty_ones_too() -> None:
    released = noisy(20_000)
    assert (released != 0).all()
    assert stats.kstest(released / 4.0, "norm").pvalue > 1e-4
    assert stats.kstest(released / 3.6, "norm").pvalue < 1e-9, "a tenth less would be seen"
    with pytest.raises(ParameterError, match="expected 20000 sums"):
        noisy(20_001)
    for changed in ({"mechanism": "histogram"}, {"plan_fingerprint": "x"}):
        with pytest.raises(GuaranteeError):
            noisy(20_000, **changed)


def test_guarantee_it_costs_what_the_gaussian_mechanism_costs() -> None:
    budget = Budget(epsilon=1.0, delta=1e-5, unit="image")
    query = teacher_query(budget, CLASSES, share=0.3, clusters=CLUSTERS)
    assert epsilon([query], 1e-5, budget.adjacency) == pytest.approx(0.3, abs=1e-3)
    linear = teacher_query(budget, CLASSES, share=0.3)
    assert query.noise_multiplier == linear.noise_multiplier
    assert (numbers_of(query), numbers_of(linear)) == (CLUSTERS * CLASSES, size_of(129, CLASSES))
    assert "clusters" not in linear.to_dict(), "plans without clusters keep their fingerprint"
    for one in (query, linear):
        assert record_from_dict(one.to_dict()) == one
    with pytest.raises(ParameterError, match=r"asks for 100,000,000 numbers"):
        teacher_query(budget, 1000, clusters=100_000)
    with pytest.raises(ParameterError, match="clusters"):
        TeacherQuery(classes=2, dimensions=8, noise_multiplier=1.0, clusters=0)


def test_what_may_be_noise_is_no_count() -> None:
    released = np.array([[2.9, 100.0], [-50.0, teacher.LEAST_COUNT * 2.0 + 0.1]])
    found = counts_of(released.ravel(), classes=2, noise_multiplier=2.0)
    assert found.shape == (2, 2)
    assert found[0, 1] == 100.0
    assert found[1, 0] == 0.0
    assert found[1, 1] == released[1, 1]
    exact = counts_of(np.array([0.5, 0.0]), classes=2, noise_multiplier=0.0)
    assert exact.tolist() == [[0.5, 0.0]]


def rows(count: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, 9))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_clusters_are_the_nearest_centres_and_nobody_else_moves_them() -> None:
    clusters = clusters_of(rows(400), 20)
    assert len(clusters) == 20
    found = clusters.of(rows(50, 1))
    fine = np.rint(rows(50, 1) * FINE)[:, None] - np.rint(clusters.centres * FINE)
    assert found.tolist() == (fine**2).sum(2).argmin(1).tolist()
    alone = [int(clusters.of(rows(50, 1)[place : place + 1])[0]) for place in range(50)]
    assert found.tolist() == alone
    none = np.stack([np.zeros(9), np.full(9, np.nan)])
    assert clusters.of(none).tolist() == [-1, -1], "features that are not finite make a row of zeros"
    with pytest.raises(ParameterError, match="20 clusters need as many images at least, got 7"):
        clusters_of(rows(7), 20)


def fitted(centres: np.ndarray, counts: np.ndarray, noise: float = 0.0) -> Counted:
    return Counted.of(Clusters(centres=centres), counts, counts.sum(0), noise)


def counted() -> Counted:
    return fitted(np.eye(3), np.array([[6.0, 2.0], [0.0, 0.0], [0.0, 30.0]]))


def of_two_halves(*wrong: int, noise: float = 5.0) -> Counted:
    """Forty clusters on a half circle, twenty units of the class of its side in each but some."""
    angles = (np.arange(40) + 0.5) * np.pi / 40
    left = (np.arange(40) < 20) ^ np.isin(np.arange(40), wrong)
    centres = np.stack([np.cos(angles), np.sin(angles)], 1)
    return fitted(centres, np.stack([20.0 * left, 20.0 * ~left], 1), noise)


def labels_at_centres(kind: Counted) -> list[int]:
    centres = kind.clusters.centres
    found: list[int] = kind.labels_in(centres, kind.clusters.of(centres)).tolist()
    return found


def test_without_noise_answers_are_the_parts_of_a_cluster() -> None:
    kind, asked = counted(), np.concatenate([np.eye(3), np.zeros((1, 3))])
    assert kind.answers(asked).tolist() == [[0.75, 0.25], [0, 0], [0, 1], [0, 0]]
    assert kind.labels_in(asked, kind.clusters.of(asked)).tolist() == [0, -1, 1, -1]


def test_neighbours_say_what_noise_hid_in_one_cluster() -> None:
    assert labels_at_centres(of_two_halves(5, 30)) == [0] * 20 + [1] * 20
    exact = labels_at_centres(of_two_halves(5, 30, noise=0.0))
    assert (exact[5], exact[30]) == (1, 0), "where there is no noise they are asked nothing"


def test_images_of_one_cluster_may_be_of_two_classes() -> None:
    """The commonest class of the cluster alone would name both alike."""
    kind = fitted(np.array([[1.0, 0], [-1, 0], [0, 1]]), np.array([[30.0, 0], [0, 30], [4, 3]]), noise=1.0)
    rows = np.array([[0.3, 0.9], [-0.3, 0.9]])
    assert kind.clusters.of(rows).tolist() == [2, 2]
    assert kind.labels_in(rows, np.array([2, 2])).tolist() == [0, 1]


def test_a_class_without_units_is_nobodys_and_one_alone_is_everybodys() -> None:
    three = fitted(np.eye(2), np.array([[9.0, 0, 0], [0, 0, 9]]), noise=1.0)
    assert three.answers(np.eye(2))[:, 1].tolist() == [0, 0]
    assert labels_at_centres(three) == [0, 2]
    alone = fitted(np.eye(2), np.array([[0.0, 9], [0, 0]]), noise=1.0)
    assert alone.answers(np.eye(2)).tolist() == [[0, 1], [0, 0]]
    none = fitted(np.eye(2), np.zeros((2, 2)), noise=1.0)
    assert labels_at_centres(none) == [-1, -1]
    assert none.units().tolist() == [0, 0]


def test_a_rare_class_keeps_its_clusters() -> None:
    """Forty units of one beside eighteen hundred of the other."""
    right = np.arange(40) >= 36
    few = fitted(of_two_halves().clusters.centres, np.stack([50.0 * ~right, 10.0 * right], 1), noise=2.0)
    assert labels_at_centres(few) == [0] * 36 + [1] * 4


def test_a_class_that_may_be_noise_alone_is_not_spread() -> None:
    """A few counts passed the limit, others were below 0: nobody is of it, and a regression cannot tell."""
    centres, noise = of_two_halves().clusters.centres, 2.0
    counts = np.stack([np.full(40, 12.0), np.where(np.arange(40) % 4 == 3, 3.5, 0.0)], 1)
    totals = np.array([480.0, 4.0])
    kind = Counted.of(Clusters(centres=centres), counts, totals, noise)
    assert labels_at_centres(kind) == [0] * 40
    assert kind.of_class.tolist() == pytest.approx([480, 3 * 2 * math.sqrt(40)]), "nor is it made frequent"
    shown = Counted.of(Clusters(centres=centres), counts, counts.sum(0) + np.array([0, 100]), noise)
    assert shown.answers(centres)[:, 1].max() > kind.answers(centres)[:, 1].max()


def test_a_class_in_few_clusters_is_seen_where_all_noise_together_is_larger() -> None:
    """Seven hundred clusters with noise of seven: 500 units are less than three deviations of their sum's."""
    noise, where = 7.0, np.arange(700) >= 690
    angles = np.arange(700) * np.pi / 700
    counts = np.stack([70.0 * ~where, 50.0 * where], 1)
    kind = fitted(np.stack([np.cos(angles), np.sin(angles)], 1), counts, noise)
    assert counts[:, 1].sum() < 3 * noise * math.sqrt(700)
    assert labels_at_centres(kind) == [0] * 690 + [1] * 10
    assert kind.of_class.tolist() == [70 * 690, 500]


def test_of_very_many_counts_the_largest_of_each_class_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class lies in many clusters, each of a small part of it; it is there all the same."""
    right = np.arange(40) >= 36
    counts = np.stack([50.0 * ~right, 10.0 * right, np.zeros(40)], 1)
    monkeypatch.setattr(count_regression, "MOST_COUNTS", 15)
    seen: list[int] = np.bincount(count_regression._largest(counts)[1], minlength=3).tolist()
    assert seen == [5, 4, 0]
    chosen = count_regression.regression_of(of_two_halves().clusters.centres, counts)
    labels = count_regression.chances(chosen, of_two_halves().clusters.centres).argmax(1)
    assert labels[right].tolist() == [1] * 4
    assert labels[:5].tolist() == [0] * 5


def test_what_came_back_from_a_file_labels_the_same() -> None:
    kind = of_two_halves(5, 30)
    again = kind_of(kind.arrays())
    rows = np.random.default_rng(0).normal(size=(50, 2))
    assert again.answers(rows).tolist() == kind.answers(rows).tolist()
    before = {name: array for name, array in kind.arrays().items() if name in ("centres", "counts")}
    old = kind_of(before)
    assert isinstance(old, Counted)
    assert (labels_at_centres(old)[5], labels_at_centres(old)[30]) == (1, 0), "by counts alone, as it did"
    for name, wrong in (
        ("centres", np.zeros((39, 2))),
        ("counts", -np.ones((40, 2))),
        ("counts", np.full((40, 2), np.nan)),
        ("regression", np.zeros((2, 2))),
        ("prior", np.array([np.nan])),
        ("of_class", np.ones(3)),
    ):
        with pytest.raises(ValueError, match=f"{name} does not fit"):
            kind_of({**kind.arrays(), name: wrong})


def test_units_of_a_cluster_are_those_of_its_classes() -> None:
    """As the answers say they are mixed: what noise left in a class of elsewhere adds nothing."""
    centres, exact = np.eye(3), np.array([[6.0, 2], [0, 0], [9, 30]])
    assert fitted(centres, exact).units() == pytest.approx([8, 0, 39])
    rule = {"clusters": Clusters(centres=centres), "prior": 1e9, "of_class": np.ones(2)}
    sure = Counted(counts=exact, regression=np.array([[90.0, 0], [0, 90], [0, 90], [0, 0]]), **rule)
    assert sure.units() == pytest.approx([6, 0, 30])
    unsure = Counted(counts=np.array([[8.0, 12], [0, 0], [7, 3]]), regression=np.zeros((4, 2)), **rule)
    assert unsure.units() == pytest.approx([20, 0, 10])
    leaning = Counted(counts=10.0 * np.eye(3)[:, :2], regression=np.eye(4)[:, :2], **rule)
    assert leaning.units() == pytest.approx([10, 10, 0]), "not 12, though a quarter should be of the other"


def test_weights_spread_images_over_clusters_as_the_units_are() -> None:
    cluster = np.repeat([0, 1, 2, -1], [10, 50, 5, 2])
    weights = counted().weights(cluster)
    assert [weights[cluster == place].sum() for place in (0, 1, 2, -1)] == pytest.approx([8, 0, 30, 0])
    assert math.isfinite(weights.sum())


def test_classes_lean_towards_the_shares_that_are_asked_for() -> None:
    """Twice as many units of a class that is to be as frequent: half the weight."""
    teacher = Teacher(
        features="tiny",
        sha256=None,
        classes=ReleasedClasses(labels=(0, 1)),
        whitening=Whitening(mean=np.zeros(2, np.float32), projection=np.eye(2, dtype=np.float32)),
        kind=fitted(np.eye(3), np.array([[40.0, 0], [0, 20], [0, 60]])),
    )
    assert teacher.rarity(np.array([0.5, 0.5])) == pytest.approx([1.5, 0.75])
    assert teacher.rarity(np.array([1 / 3, 2 / 3])) == pytest.approx([1.0, 1.0])
    assert teacher.rarity(np.array([1.0, 0.0])).tolist() == pytest.approx([3.0, 0.0])


def test_either_kind_comes_back_from_its_arrays() -> None:
    again = kind_of(counted().arrays())
    assert isinstance(again, Counted)
    assert again.counts.tolist() == counted().counts.tolist()
    linear = kind_of(Linear(weights=np.ones((4, 2))).arrays())
    assert isinstance(linear, Linear)
    assert linear.labels(np.array([[1.0, 0, 0, 0]])).tolist() == [0]
    with pytest.raises(KeyError):
        kind_of({"mean": np.zeros(3)})
