"""The Fréchet distance against scipy's matrix root and against answers known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metric_support import PIXELS, normal, of_vectors
from scipy import linalg

from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.embedding import Embedded
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.frechet import frechet_distance


def _by_scipy(one: Embedded, other: Embedded) -> float:
    root = linalg.sqrtm(one.covariance @ other.covariance)
    apart = ((one.mean - other.mean) ** 2).sum()
    return float(apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.trace(root).real)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.0), (1.0, 0.1)])
def test_it_is_the_formula_with_scipys_root(shift: float, scale: float) -> None:
    mixing = normal(12, 12, 9)
    one, other = of_vectors(normal(80, 12, 1) @ mixing), of_vectors(normal(90, 12, 2, shift, scale) @ mixing)
    assert frechet_distance(one, other) == pytest.approx(_by_scipy(one, other), rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-9)


def test_answers_in_closed_form() -> None:
    """Means 2 apart in each of 5 dimensions: 20. Standard deviations 1 and 3: 5 times (3 - 1)²."""
    whole = Embedded(
        features=PIXELS, count=9, mean=np.zeros(5), covariance=np.eye(5), vectors=normal(9, 5, 0)
    )
    assert frechet_distance(whole, whole) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(whole, replace(whole, mean=np.full(5, 2.0))) == pytest.approx(20)
    assert frechet_distance(whole, replace(whole, covariance=9 * np.eye(5))) == pytest.approx(20)


def test_the_same_set_is_at_distance_zero_even_with_fewer_images_than_dimensions() -> None:
    few = of_vectors(normal(10, 40, 0))
    assert 0 <= frechet_distance(few, few) < 1e-5
    assert frechet_distance(few, of_vectors(normal(10, 40, 1))) > 1


def test_a_dropped_mode_is_seen() -> None:
    modes = np.concatenate([normal(200, 8, 1, shift) for shift in (0.0, 3.0)])
    again = np.concatenate([normal(200, 8, 2, shift) for shift in (0.0, 3.0)])
    assert frechet_distance(of_vectors(again), of_vectors(modes)) < 1
    assert frechet_distance(of_vectors(again[:200]), of_vectors(modes)) > 10


def test_sets_of_two_extractors_are_refused() -> None:
    other = Features(name="other", dim=16, function=PIXELS.function)
    with pytest.raises(ParameterError, match="cannot be compared"):
        frechet_distance(of_vectors(normal(9, 5, 0)), of_vectors(normal(9, 5, 0), other))
