"""Diversity: known answers of the Vendi score, equal numbers, and the reference beside it."""

from __future__ import annotations

import numpy as np
import pytest
from metric_support import PIXELS

from dp_diffusers.evaluation.diversity import LIMIT, diversities, vendi_score
from dp_diffusers.evaluation.embedding import Embedded, embed, silent
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.held_out import HeldOut
from dp_diffusers.evaluation.reading import LabelledImages

NOISE = np.random.default_rng(0).integers(0, 256, (1500, 8, 8, 1), dtype=np.uint8)


def _seen(images: np.ndarray, labels: np.ndarray) -> tuple[LabelledImages, Embedded]:
    names = ("a", "b")
    labelled = LabelledImages(images=images, labels=labels, class_names=names)
    return labelled, embed(PIXELS, images, silent)


def test_copies_count_once_and_orthogonal_vectors_each() -> None:
    assert vendi_score(np.ones((7, 3))) == pytest.approx(1)
    assert vendi_score(5 * np.eye(6)) == pytest.approx(6)
    assert vendi_score(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)
    assert vendi_score(np.zeros((4, 3))) == pytest.approx(1)
    assert np.isnan(vendi_score(np.ones((1, 3))))


def test_two_vectors_by_hand() -> None:
    """Eigenvalues of [[1, c], [c, 1]] / 2 are (1 ± c) / 2."""
    cosine = 0.6
    shares = np.array([0.8, 0.2])
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert vendi_score(np.array([[1, 0], [cosine, 0.8]])) == pytest.approx(expected)


def test_classes_are_compared_in_equal_number_and_at_most_500() -> None:
    many = _seen(NOISE[:700], (np.arange(700) >= 600).astype(np.int64))  # 600 of a, 100 of b
    fewer = _seen(NOISE[700:1400], (np.arange(700) >= 620).astype(np.int64))  # 620 of a, 80 of b
    held_out = HeldOut(LabelledImages(images=NOISE[:50], labels=np.arange(50) % 2, class_names=("a", "b")))
    one, other = diversities({"one": many, "other": fewer}, held_out)
    assert one.images == other.images == (LIMIT, 80)
    assert one.compared == other.compared == (25, 25)
    assert one.reference == other.reference
    assert np.allclose(one.ratio, 1, atol=0.1)


def test_a_set_of_one_image_repeated_is_less_diverse_than_real_ones() -> None:
    labels = np.arange(60) % 2
    held_out = HeldOut(LabelledImages(images=NOISE[:60], labels=labels, class_names=("a", "b")))
    (found,) = diversities({"x": _seen(NOISE[[0, 1] * 30], labels)}, held_out)
    assert found.per_class == pytest.approx((1, 1))
    assert max(found.ratio) < 0.9
    (same,) = diversities({"x": _seen(NOISE[:60], labels)}, held_out)
    assert same.ratio == pytest.approx((1, 1))


def test_a_class_without_images_has_no_figure() -> None:
    held_out = HeldOut(LabelledImages(images=NOISE[:20], labels=np.arange(20) % 2, class_names=("a", "b")))
    (found,) = diversities({"x": _seen(NOISE[:20], np.zeros(20, np.int64))}, held_out)
    assert np.isnan(found.per_class[1])
    assert np.isnan(found.ratio[1])
    assert np.isfinite(found.means()["diversity_ratio"])


def test_vectors_meet_their_labels_where_not_all_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is in the pixels: a label of another image would mix the two."""
    from dp_diffusers.evaluation import embedding

    monkeypatch.setattr(embedding, "LIMIT", 40)
    labels = np.random.default_rng(1).integers(0, 2, 100)
    images = np.zeros((100, 8, 8, 1), np.uint8)
    images[labels == 0, :4], images[labels == 1, 4:] = 200, 200
    held_out = HeldOut(LabelledImages(images=images, labels=labels, class_names=("a", "b")))
    (found,) = diversities({"x": _seen(images, labels)}, held_out)
    assert found.per_class == pytest.approx((1, 1))
    assert sum(found.images) <= 40


def test_features_that_see_nothing_do_not_divide_by_zero() -> None:
    blank = Features(name="blank", dim=3, function=lambda images: np.zeros((len(images), 3)))
    labelled = LabelledImages(images=NOISE[:10], labels=np.zeros(10, np.int64), class_names=("a",))
    (found,) = diversities({"x": (labelled, embed(blank, NOISE[:10], silent))}, HeldOut(labelled))
    assert found.ratio == pytest.approx((1,))
