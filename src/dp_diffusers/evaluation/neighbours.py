"""Precision, recall, density and coverage of synthetic images, by their nearest neighbours.

Guarantees figures that no block size or number of threads can move: vectors are rounded to whole numbers,
so that distances are exact and ties are ties. May import numpy. Precision and recall: Kynkäänniemi et al.
(2019), third neighbour; density and coverage: Naeem et al. (2020), fifth neighbour. Balls are closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import positive
from dp_diffusers.evaluation.embedding import Embedded, silent

PRECISION_NEIGHBOUR: Final = 3
DENSITY_NEIGHBOUR: Final = 5
LARGEST: Final = 15  # bits of a rounded value: sums of 2^20 products of differences stay below 2^53
BLOCK: Final = 500

Whole = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """precision: share of synthetic images among the real ones; recall: the reverse. Both in [0, 1].

    density: real balls that hold a synthetic image, on average, in units of the fifth neighbour (may exceed
    1). coverage: share of real images with a synthetic one in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(
    synthetic: Embedded, reference: Embedded, *, progress: Callable[..., None] = silent
) -> Neighbourhood:
    """Raises `ParameterError` for sets seen by different extractors, or of five images or fewer."""
    synthetic.require_same_features(reference)
    fewest = min(len(synthetic.vectors), len(reference.vectors))
    positive(images_above_5=fewest - DENSITY_NEIGHBOUR)
    made, real = whole_numbers(synthetic.vectors, reference.vectors)
    counted = _Counted(progress, len(real) + 2 * len(made))
    real_near, real_far = _radii(real, counted)
    made_near, _ = _radii(made, counted)
    among_real, reached, covered, balls = 0, np.zeros(len(real), bool), np.zeros(len(real), bool), 0
    for start, apart in _blocks(made, real, counted):
        among_real += int((apart <= real_near).any(1).sum())
        reached |= (apart <= made_near[start : start + len(apart), None]).any(0)
        inside = apart <= real_far
        balls += int(inside.sum())
        covered |= inside.any(0)
    return Neighbourhood(
        precision=among_real / len(made),
        recall=float(reached.mean()),
        density=balls / (DENSITY_NEIGHBOUR * len(made)),
        coverage=float(covered.mean()),
    )


def whole_numbers(*sets: NDArray[np.float32]) -> list[Whole]:
    """The sets on one grid of whole numbers up to 2^15, in float64; one power of two scales them all."""
    largest = max(float(np.abs(rows).max()) for rows in sets)
    scale = 2.0 ** (LARGEST - math.ceil(math.log2(largest))) if largest > 0 else 1.0
    return [np.rint(rows.astype(np.float64) * scale) for rows in sets]


def _radii(rows: Whole, counted: _Counted) -> tuple[Whole, Whole]:
    """Squared distances [N] to the third and the fifth neighbour; the nearest of all is the image itself."""
    ranks = (PRECISION_NEIGHBOUR, DENSITY_NEIGHBOUR)
    found = [np.partition(apart, ranks, axis=1)[:, ranks] for _, apart in _blocks(rows, rows, counted)]
    near, far = np.concatenate(found).T
    return near, far


def _blocks(rows: Whole, others: Whole, counted: _Counted) -> Iterator[tuple[int, Whole]]:
    """(first row, squared distances [B, N]) for each block of rows."""
    squares = (others**2).sum(1)
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        apart = some @ others.T
        apart *= -2.0
        apart += squares
        apart += (some**2).sum(1)[:, None]
        yield start, apart
        counted.add(len(some))


class _Counted:
    """Tells `progress` how many images have met all others."""

    def __init__(self, progress: Callable[..., None], total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, number: int) -> None:
        self._done += number
        self._progress(step=self._done, steps=self._total, unit="images")
