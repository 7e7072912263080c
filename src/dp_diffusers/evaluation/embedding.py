"""A set of images as an extractor sees it: mean and covariance of all, vectors of at most 10,000.

Guarantees memory that does not grow with the set, the same vectors for the same set, and that sets seen by
different extractors are never compared. May import numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation.features import Features

LIMIT: Final = 10_000  # images whose vectors are kept, as in Naeem et al. (2020)
BLOCK: Final = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """count images: mean [D] and covariance [D, D] (over count - 1) in float64, and vectors float32 [S, D].

    The vectors are of all images, or of 10,000 drawn without replacement where there are more.
    """

    features: Features
    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    vectors: NDArray[np.float32]

    def require_same_features(self, other: Embedded) -> None:
        """Raises `ParameterError` when the other set was seen by another extractor, or by other weights."""
        same_features(
            (self.features.name, self.features.sha256), (other.features.name, other.features.sha256)
        )


def same_features(one: tuple[str, str | None], other: tuple[str, str | None]) -> None:
    """Raises `ParameterError` unless both (name, sha256 of the weights) are of one extractor."""
    if one != other:
        raise ParameterError(
            f"figures by {_called(one)} and by {_called(other)} cannot be compared",
            hint="use the same features for both",
        )


def embed(features: Features, images: NDArray[np.uint8], progress: Callable[..., None]) -> Embedded:
    """Runs `features` over uint8 [N, H, W, C] in blocks. `progress` is told of the images that are done.

    Raises `DataError` for fewer than two images.
    """
    count = len(images)
    if count < 2:
        raise DataError(f"expected two images or more, got {count}")
    kept = kept_of(count)
    vectors = np.empty((int(kept.sum()), features.dim), np.float32)
    sums, filled = _Sums(features.dim), 0
    for start in range(0, count, BLOCK):
        found = features.of(images[start : start + BLOCK])
        sums.add(found)
        chosen = found[kept[start : start + BLOCK]]
        vectors[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
        progress(step=min(start + BLOCK, count), steps=count, unit="images")
    return Embedded(
        features=features, count=count, mean=sums.mean, covariance=sums.covariance, vectors=vectors
    )


class _Sums:
    """Sums of vectors and of their products, taken from a point near the mean so that little cancels."""

    def __init__(self, dim: int) -> None:
        self._count = 0
        self._origin = np.zeros(dim)
        self._sum = np.zeros(dim)
        self._products = np.zeros((dim, dim))

    def add(self, vectors: NDArray[np.float32]) -> None:
        rows = vectors.astype(np.float64)
        if not self._count:
            self._origin = rows.mean(0)
        rows -= self._origin
        self._count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._sum / self._count + self._origin
        return found

    @property
    def covariance(self) -> NDArray[np.float64]:
        shifted = self._sum / self._count
        found: NDArray[np.float64] = (self._products - self._count * np.outer(shifted, shifted)) / (
            self._count - 1
        )
        return found


def kept_of(count: int) -> NDArray[np.bool_]:
    """bool [count]: which of `count` images keep their vectors, by a public seed."""
    kept = np.zeros(count, np.bool_)
    kept[np.random.default_rng(0).permutation(count)[:LIMIT]] = True
    return kept


def _called(features: tuple[str, str | None]) -> str:
    name, digest = features
    return name if digest is None else f"{name} ({digest[:8]})"


def silent(**_: Any) -> None:
    """Progress that nobody sees."""
