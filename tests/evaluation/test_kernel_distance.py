"""The kernel distance against a double loop; unbiased, with a standard error that is about right."""

from __future__ import annotations

import numpy as np
import pytest
from metric_support import PIXELS, normal, of_vectors

from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.kernel_distance import _drawn, kernel_distance, squared_mmd


def _by_loops(one: np.ndarray, other: np.ndarray, *, biased: bool = False) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((sum(a * b for a, b in zip(x.tolist(), y.tolist())) / len(x) + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if biased or i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(x, y) for x in one for y in other]
    return within(one) + within(other) - 2 * sum(across) / len(across)


def test_it_is_the_double_loop() -> None:
    one, other = normal(17, 6, 1).astype(float), normal(23, 6, 2, 0.5).astype(float)
    assert squared_mmd(one, other) == pytest.approx(_by_loops(one, other), rel=1e-9)
    assert squared_mmd(one, other) != pytest.approx(_by_loops(one, other, biased=True), rel=0.05)


def test_it_is_a_mean_over_subsets_of_half_of_each_set() -> None:
    one, other = of_vectors(normal(20, 6, 1)), of_vectors(normal(31, 6, 2, 0.5))
    rng, expected = np.random.default_rng(3), []
    for _ in range(4):
        drawn = [rng.choice(len(s.vectors), n, replace=False) for s, n in ((one, 10), (other, 15))]
        parts = [s.vectors[rows].astype(float) for s, rows in zip((one, other), drawn, strict=True)]
        expected.append(_by_loops(*parts))
    mean, error = kernel_distance(one, other, subsets=4, seed=3)
    assert mean == pytest.approx(np.mean(expected), rel=1e-9)
    assert error == pytest.approx(np.std(expected), rel=1e-9)


def test_equal_seeds_give_equal_figures() -> None:
    one, other = of_vectors(normal(40, 6, 1)), of_vectors(normal(40, 6, 2, 0.5))
    first = kernel_distance(one, other, subsets=5)
    assert kernel_distance(one, other, subsets=5) == first
    assert kernel_distance(one, other, subsets=5, seed=1) != first


@pytest.fixture(scope="module")
def repeated() -> dict[float, np.ndarray]:
    """Distance and error for 150 pairs of fresh sets [150, 2], by how far apart their distributions are."""
    return {
        shift: np.array(
            [
                kernel_distance(
                    of_vectors(normal(60, 4, 2 * i)), of_vectors(normal(60, 4, 2 * i + 1, shift)), subsets=25
                )
                for i in range(150)
            ]
        )
        for shift in (0.0, 0.5)
    }


@pytest.mark.slow
def test_it_is_unbiased(repeated: dict[float, np.ndarray]) -> None:
    """Of one distribution it is 0 on average, within five errors of it; a bias of 0.1 would be seen."""
    found = repeated[0.0][:, 0]
    reach = 5 * found.std() / len(found) ** 0.5
    assert abs(found.mean()) < reach < 0.1
    assert (found < 0).any()


@pytest.mark.slow
def test_the_standard_error_is_the_spread_of_fresh_sets(repeated: dict[float, np.ndarray]) -> None:
    """Apart, it is right; of one distribution it errs upwards, at most twofold."""
    for shift, high in ((0.5, 1.35), (0.0, 2.5)):
        found, error = repeated[shift].T
        assert 0.8 < error.mean() / found.std(ddof=1) < high, shift


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(30, 300), (300, 30)])
def test_the_standard_error_is_right_for_sets_of_unequal_size(first: int, second: int) -> None:
    """As many of the larger as of the smaller made it 1.8 times the spread, without a shift 2.9 times."""
    for shift, high in ((0.5, 1.35), (0.0, 2.5)):
        found, error = np.array(
            [
                kernel_distance(
                    of_vectors(normal(first, 4, 2 * i)),
                    of_vectors(normal(second, 4, 2 * i + 1, shift)),
                    subsets=25,
                )
                for i in range(150)
            ]
        ).T
        assert 0.8 < error.mean() / found.std(ddof=1) < high, shift


def test_subsets_are_the_same_part_of_both_sets() -> None:
    assert _drawn(100, 100) == [50, 50]
    assert _drawn(100, 2000) == [50, 1000]
    assert _drawn(300, 3000) == [100, 1000]
    assert _drawn(10_000, 10_000) == [1000, 1000]
    assert _drawn(4, 10_000) == [2, 1000], "a distance needs two"


def test_disjoint_sets_and_a_dropped_mode_are_seen() -> None:
    modes = np.concatenate([normal(60, 8, 1, shift) for shift in (0.0, 3.0)])
    again = np.concatenate([normal(60, 8, 2, shift) for shift in (0.0, 3.0)])
    whole, _ = kernel_distance(of_vectors(again), of_vectors(modes), subsets=20)
    for part in (again[:60], again[60:], again + 9):
        mean, error = kernel_distance(of_vectors(part), of_vectors(modes), subsets=20)
        assert mean > 2 * error
        assert mean > 10 * abs(whole)


def test_bad_calls() -> None:
    three, other = normal(3, 6, 1), Features(name="other", dim=16, function=PIXELS.function)
    with pytest.raises(ParameterError, match="images_above_3"):
        kernel_distance(of_vectors(three), of_vectors(three))
    with pytest.raises(ParameterError, match="cannot be compared"):
        kernel_distance(of_vectors(normal(9, 6, 1)), of_vectors(normal(9, 6, 1), other))
