"""What queries of sums of products share: rows of bounded length, and a symmetric matrix as one vector.

Guarantees that a row comes out at most 1 long or not at all, and that a matrix and its vector are equally
long in the Euclidean norm. May import numpy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def counted_rows(
    rows: Floats, position: Integers, weight: Floats, classes: int
) -> tuple[Floats, Integers, Floats]:
    """The rows that count, with their classes and weights; copies, whatever is in them.

        row                              counts as
        longer than 1                    the row, scaled to 1
        NaN or infinity somewhere in it  nothing
        class below 0 or unknown         nothing

    rows: `[N, width]`; position: `[N]`, each row's class; weight: `[N]`.
    """
    counts = (position >= 0) & (position < classes) & np.isfinite(rows).all(1)
    rows, position, weight = rows[counts], position[counts], weight[counts]  # before any arithmetic
    largest = np.maximum(np.abs(rows).max(1, initial=0.0, keepdims=True), 1.0)  # squares stay finite
    rows = rows / largest
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0 / largest)
    return rows, position, weight


def triangle_of(matrix: Floats) -> Floats:
    """float64 `[width (width + 1) / 2]`: the upper triangle row by row, off the diagonal times sqrt 2."""
    corner: Floats = matrix[np.triu_indices(len(matrix))]
    return corner * _scale(len(matrix))


def matrix_of(triangle: Floats) -> Floats:
    """The symmetric matrix that `triangle_of` took apart."""
    width = math.isqrt(2 * len(triangle))
    matrix = np.zeros((width, width))
    matrix[np.triu_indices(width)] = triangle / _scale(width)
    mirrored: Floats = matrix + np.triu(matrix, 1).T
    return mirrored


def _scale(width: int) -> Floats:
    rows, columns = np.triu_indices(width)
    return np.where(rows == columns, 1.0, math.sqrt(2.0))
