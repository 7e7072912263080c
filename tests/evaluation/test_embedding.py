"""Sets of vectors: one pass gives numpy's mean and covariance, in bounded memory, by one extractor."""

from __future__ import annotations

import numpy as np
import pytest
from metric_support import PIXELS, of_vectors

from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation import embedding
from dp_diffusers.evaluation.embedding import embed, silent
from dp_diffusers.evaluation.features import Features


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def test_blocks_give_the_mean_and_covariance_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BLOCK", 7)
    images, told = _images(50), []
    found = embed(PIXELS, images, lambda **facts: told.append(facts["step"]))
    vectors = PIXELS.of(images)
    np.testing.assert_allclose(found.mean, vectors.mean(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(vectors.astype(float), rowvar=False), atol=1e-12)
    np.testing.assert_array_equal(found.vectors, vectors)
    assert told == [7, 14, 21, 28, 35, 42, 49, 50]


def test_a_mean_far_from_zero_cancels_nothing() -> None:
    far = Features(name="far", dim=16, function=lambda images: PIXELS.of(images) + 1000)
    found = embed(far, _images(200), silent)
    vectors = far.of(_images(200)).astype(float)
    np.testing.assert_allclose(found.covariance, np.cov(vectors, rowvar=False), rtol=1e-6, atol=1e-9)


def test_of_many_images_some_vectors_are_kept_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BLOCK", 7)
    monkeypatch.setattr(embedding, "LIMIT", 20)
    one, again = (embed(PIXELS, _images(50), silent) for _ in range(2))
    assert one.count == 50
    assert one.vectors.shape == (20, 16)
    np.testing.assert_array_equal(one.vectors, again.vectors)
    known = {row.tobytes() for row in PIXELS.of(_images(50))}
    assert {row.tobytes() for row in one.vectors} < known
    np.testing.assert_allclose(one.mean, PIXELS.of(_images(50)).mean(0), rtol=1e-5)


def test_sets_of_two_extractors_are_not_compared() -> None:
    vectors = PIXELS.of(_images(10))
    other_name = Features(name="other", dim=16, function=PIXELS.function)
    other_weights = Features(name="pixels-4", dim=16, sha256="ab" * 32, function=PIXELS.function)
    of_vectors(vectors).require_same_features(of_vectors(vectors))
    for other, said in ((other_name, "by other cannot"), (other_weights, r"by pixels-4 \(abababab\) cannot")):
        with pytest.raises(ParameterError, match=said):
            of_vectors(vectors).require_same_features(of_vectors(vectors, other))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(DataError, match="two images or more, got 1"):
        embed(PIXELS, _images(1), silent)
