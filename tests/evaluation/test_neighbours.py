"""Precision, recall, density, coverage against scipy's distances, and on sets whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from metric_support import PIXELS, normal, of_vectors
from scipy.spatial import distance

from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation import neighbours
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.neighbours import Neighbourhood, neighbourhood, whole_numbers


def _by_the_papers(made: np.ndarray, real: np.ndarray) -> Neighbourhood:
    """The papers' sentences on scipy's distances, in double precision."""

    def radii(rows: np.ndarray, neighbour: int) -> np.ndarray:
        return np.sort(distance.cdist(rows, rows), axis=1)[:, neighbour]  # 0 is the image itself

    apart = distance.cdist(made, real)
    in_real = apart <= radii(real, 5)
    return Neighbourhood(
        precision=(apart <= radii(real, 3)).any(1).mean(),
        recall=(radii(made, 3) >= apart.T).any(1).mean(),
        density=in_real.sum() / (5 * len(made)),
        coverage=in_real.any(0).mean(),
    )


def _found(made: np.ndarray, real: np.ndarray) -> Neighbourhood:
    return neighbourhood(of_vectors(made), of_vectors(real))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.4), (0.2, 1.8)])
def test_it_is_what_the_papers_say(shift: float, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    made, real = normal(31, 5, 1, shift, scale), normal(40, 5, 2)
    found, expected = _found(made, real), _by_the_papers(made, real)
    assert vars(found) == pytest.approx(vars(expected), abs=1e-12)


def test_the_same_set_is_all_ones() -> None:
    real = normal(200, 6, 0)
    found = _found(real, real)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # in the fifth ball of each real image lie itself and its five neighbours: six of five
    assert found.density == pytest.approx(6 / 5)


def test_fresh_draws_have_density_one_on_average() -> None:
    assert _found(normal(400, 6, 0), normal(400, 6, 1)).density == pytest.approx(1, abs=0.12)


def test_disjoint_sets_are_all_zeros() -> None:
    found = _found(normal(50, 6, 0), normal(50, 6, 1, 100.0))
    assert vars(found) == dict.fromkeys(("precision", "recall", "density", "coverage"), 0)


def test_a_dropped_mode_costs_recall_and_coverage_and_an_invented_one_precision_and_density() -> None:
    one, other = normal(100, 6, 1), normal(100, 6, 2, 50.0)
    both = np.concatenate([normal(100, 6, 3), normal(100, 6, 4, 50.0)])
    dropped, invented = _found(one, both), _found(np.concatenate([one, other]), both[:100])
    assert dropped.precision > 0.8
    assert 0.35 < dropped.recall <= 0.5
    assert 0.4 < dropped.coverage <= 0.5
    assert 0.35 < invented.precision <= 0.5
    assert invented.recall > 0.8
    assert invented.coverage > 0.8
    assert invented.density == pytest.approx(dropped.density / 2, rel=0.2)


def test_collapse_on_one_real_image_has_precision_and_no_coverage() -> None:
    real = normal(100, 6, 0)
    found = _found(np.repeat(real[:1], 50, axis=0), real)
    assert found.precision == 1
    assert found.recall == 0.01  # balls of no radius hold the copied image alone
    assert found.coverage < 0.2


def test_no_block_size_moves_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = normal(150, 40, 1), normal(150, 40, 2)
    real[:20] = made[:20]  # ties
    first = _found(made, real)
    for block in (1, 13, 150):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        assert _found(made, real) == first


def test_vectors_become_whole_numbers_on_one_grid() -> None:
    one, other = whole_numbers(np.array([[0.5, -1.0]], np.float32), np.array([[3.0, 1e-7]], np.float32))
    assert one.tolist() == [[4096.0, -8192.0]]
    assert other.tolist() == [[24576.0, 0.0]]
    assert whole_numbers(np.zeros((1, 2), np.float32))[0].tolist() == [[0.0, 0.0]]


def test_bad_calls() -> None:
    five, other = normal(5, 6, 1), Features(name="other", dim=16, function=PIXELS.function)
    with pytest.raises(ParameterError, match="images_above_5"):
        _found(five, normal(50, 6, 1))
    with pytest.raises(ParameterError, match="cannot be compared"):
        neighbourhood(of_vectors(normal(9, 6, 1)), of_vectors(normal(9, 6, 1), other))
