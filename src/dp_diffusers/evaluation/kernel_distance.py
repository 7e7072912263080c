"""The kernel distance (KID) of two sets of images, with its standard error.

Guarantees an unbiased estimate (which may be negative), and subsets that a public seed fixes. May import
numpy. Bińkowski et al. (2018): squared maximum mean discrepancy with the kernel (x·y / D + 1)³. Standard
error: subsets are the same part of both sets, half at most, so their spread is a delete-d jackknife (Shao &
Wu 1989).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import positive
from dp_diffusers.evaluation.embedding import Embedded, silent

SUBSETS: Final = 100
LARGEST: Final = 1000


def kernel_distance(
    one: Embedded,
    other: Embedded,
    *,
    subsets: int = SUBSETS,
    seed: int = 0,
    progress: Callable[..., None] = silent,
) -> tuple[float, float]:
    """(mean over subsets of at most 1000 images from each set, its standard error).

    A subset is the same part of each set, so that each adds to the error what it adds to that of the whole.
    Raises `ParameterError` for sets seen by different extractors, or of fewer than four images.
    """
    one.require_same_features(other)
    fewest = min(len(one.vectors), len(other.vectors))
    positive(images_above_3=fewest - 3, subsets_above_1=subsets - 1)
    drawn = _drawn(len(one.vectors), len(other.vectors))
    rng = np.random.default_rng(seed)
    found = np.empty(subsets)
    for index in range(subsets):
        parts = [
            side.vectors[rng.choice(len(side.vectors), size, replace=False)].astype(np.float64)
            for side, size in zip((one, other), drawn, strict=True)
        ]
        found[index] = squared_mmd(*parts)
        progress(step=index + 1, steps=subsets, unit="subsets")
    left = (len(side.vectors) - size for side, size in zip((one, other), drawn, strict=True))
    error = float(found.std()) * math.sqrt(max(size / rest for size, rest in zip(drawn, left, strict=True)))
    return float(found.mean()), error


def _drawn(*counts: int) -> list[int]:
    """How many of each set a subset has: half, or less where the larger would give more than `LARGEST`."""
    return [max(2, min(count // 2, LARGEST * count // max(counts))) for count in counts]


def squared_mmd(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The unbiased estimate from vectors [M, D] and [N, D]: no vector is compared with itself."""
    within = sum(_sum_of_kernel(x, x, own=False) / (len(x) * (len(x) - 1)) for x in (one, other))
    return within - 2 * _sum_of_kernel(one, other, own=True) / (len(one) * len(other))


def _sum_of_kernel(one: NDArray[np.float64], other: NDArray[np.float64], *, own: bool) -> float:
    kernel = one @ other.T / one.shape[1] + 1
    kernel = kernel * kernel * kernel
    return float(kernel.sum()) - (0.0 if own else float(np.trace(kernel)))
