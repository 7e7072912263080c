"""Box and Muller's transform by a tangent, beside the textbook's cosine and sine in more digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from dp_diffusers.engine import normals, randomness
from dp_diffusers.engine.normals import add_normals
from dp_diffusers.engine.randomness import NOISE_DRAWS, RunKeys

Words = NDArray[np.uint64]
PLACES = [
    0,
    1,
    2**52,
    2**51,
    2**52 - 1,
    2**52 + 1,
    3 * 2**51,
    2**53 - 1,
]  # of both uniforms; some turns are right angles


def drawn(words: Words) -> NDArray[np.float64]:
    total = np.zeros(len(words), np.float64)
    add_normals(words, total)
    return total


def textbook(words: Words) -> NDArray[np.longdouble]:
    """Radius times cosine and sine of the angle, in extended precision."""
    uniforms = (words >> np.uint64(11)).astype(np.longdouble) * np.longdouble(2.0) ** -53
    radius = np.sqrt(-2 * np.log(1 - uniforms[0::2]))
    angle = 8 * np.arctan(np.longdouble(1)) * uniforms[1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()


def cases() -> Words:
    """Every pair of special places, and 100,000 random words."""
    special = np.array([(a, b) for a in PLACES for b in PLACES], np.uint64).ravel() << np.uint64(11)
    return np.concatenate([special, np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)])


def error(words: Words) -> float:
    """The largest error, in parts of the radius (or of 1, where that is less)."""
    found, right = drawn(words), textbook(words)
    radius = np.repeat(np.hypot(right[0::2], right[1::2]), 2)
    return float(np.max(np.abs(found - right) / np.maximum(radius, 1)))


def test_guarantee_normals_are_those_of_the_textbook() -> None:
    assert error(cases()) < 1e-15


def test_a_value_is_a_function_of_its_own_two_words() -> None:
    words = cases()[:1000]
    assert np.array_equal(drawn(words)[400:600], drawn(words[400:600]))
    one, two = drawn(words[:2]), drawn(words[2:4])
    assert np.array_equal(drawn(words[:4]), np.concatenate([one, two]))


def test_draws_are_added() -> None:
    words = cases()[:1000]
    total = np.arange(1000.0)
    add_normals(words, total)
    assert np.array_equal(total, np.arange(1000.0) + drawn(words))


@pytest.mark.planted
@pytest.mark.parametrize("defect", ["the whole angle", "radius of the log alone"])
def test_planted_transforms(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Any = getattr(np, "tan" if defect == "the whole angle" else "sqrt")

    class Wrong:
        """numpy, but for one function."""

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def tan(self, values: Any, out: Any) -> Any:
            return right(2 * values, out=out) if defect == "the whole angle" else np.tan(values, out=out)

        def sqrt(self, values: Any, out: Any) -> Any:
            return np.sqrt(values, out=out) if defect == "the whole angle" else values

    monkeypatch.setattr(normals, "np", Wrong())
    assert error(cases()) > 0.1


def test_noise_over_blocks_has_the_moments_of_a_normal() -> None:
    """Each limit is five standard deviations; the right ones are those of 200,001 normals."""
    values = RunKeys.for_tests(5).noise(0, "moments", count := 200_001)
    for power, deviation in ((1, 1), (2, 2), (3, 15), (4, 96)):
        expected = stats.norm.moment(power)
        assert abs((values**power).mean() - expected) < 5 * np.sqrt(deviation / count)
    assert stats.kstest(values, "norm").pvalue > 1e-6
    assert abs(stats.kurtosis(values * np.where(np.arange(count) % 2, 1.3, 1.0))) > 5 * np.sqrt(24 / count), (
        "the test must be able to tell noise that is of two sizes"
    )


def test_noise_is_the_sum_of_independent_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RunKeys.for_tests(6)
    whole = keys.noise(3, "a", 20_000)
    monkeypatch.setattr(randomness, "NOISE_DRAWS", 1)
    first = keys.noise(3, "a", 20_000)
    rest = whole * np.sqrt(NOISE_DRAWS) - first
    assert abs(np.corrcoef(first, rest)[0, 1]) < 5 / np.sqrt(20_000)
    assert rest.std() == pytest.approx(np.sqrt(NOISE_DRAWS - 1), rel=0.03)


def test_noise_of_a_longer_row_begins_with_the_shorter_one() -> None:
    keys = RunKeys.for_tests(7)
    block = randomness._NOISE_PER_BLOCK
    longest = keys.noise(0, "a", 3 * block)
    for size in (0, 1, 2, block - 1, block, block + 1, 2 * block + 1):
        assert np.array_equal(keys.noise(0, "a", size), longest[:size])
