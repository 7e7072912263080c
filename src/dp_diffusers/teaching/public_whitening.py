"""Public features in a few directions of equal spread, at length 1: what a teacher sees of an image.

Guarantees that the row of an image is a function of that image and of public numbers alone, and never longer
than 1. May import numpy. Source: whitening by principal components with shrinkage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.features import Features

BLOCK: Final = 512
SHRINKAGE: Final = 0.01  # of the largest variance, added to each: small directions are not blown up
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """mean: float32 `[D]`; projection: float32 `[D, d]`, the directions over their spread."""

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    @property
    def width(self) -> int:
        """Numbers of a row: the directions, and a constant."""
        return int(self.projection.shape[1]) + 1

    def rows(self, features: NDArray[np.float32]) -> Floats:
        """float64 `[N, d + 1]` of features `[N, D]`: [z / sqrt d, 1] at length 1, z the whitened features.

        Features that are not finite give a row of zeros.
        """
        finite = np.asarray(np.isfinite(features).all(1))
        known = np.where(finite[:, None], features, self.mean).astype(np.float64)
        z = (known - self.mean) @ self.projection.astype(np.float64) / np.sqrt(self.width - 1)
        rows = np.concatenate([z, np.ones((len(z), 1))], 1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)  # at least 1, for the constant
        rows[~finite] = 0.0
        return rows

    def of_images(self, features: Features, images: NDArray[np.uint8]) -> Iterator[tuple[slice, Floats]]:
        """Which images, and their rows, of uint8 `[N, H, W, C]` one block at a time.

        Each block has the same number of images until its rows are there, the last one filled up: networks
        and products of matrices round otherwise in a block of another size, and whether someone is there must
        not change the rows of others, not in their last bit.
        """
        for start in range(0, len(images), BLOCK):
            block = np.asarray(images[start : start + BLOCK])
            blank = np.zeros((BLOCK - len(block), *block.shape[1:]), np.uint8)
            rows = self.rows(features.of(np.concatenate([block, blank]), finite=False))
            yield slice(start, start + len(block)), rows[: len(block)]


class NothingToScaleError(ParameterError):
    """Images whose features are all alike, or no numbers."""


def whitening_of(features: Features, images: NDArray[np.uint8], dimensions: int) -> Whitening:
    """From uint8 `[N, H, W, C]`, public or released. Raises `ParameterError` for too few.

    `NothingToScaleError` for images that are all alike to the features, or that give no finite ones.
    """
    if len(images) <= dimensions:
        raise ParameterError(
            f"a teacher of {dimensions} dimensions needs more images than that, got {len(images)}",
            hint="more images at teacher.public, or fewer teacher.dimensions",
        )
    starts = range(0, len(images), BLOCK)
    parts = [features.of(images[start : start + BLOCK], finite=False) for start in starts]
    found = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(found).all():
        raise NothingToScaleError(f"features {features.name}: a value is not finite")
    mean = found.mean(0)
    values, vectors = np.linalg.eigh((found - mean).T @ (found - mean) / len(found))
    if not values[-1] > 0:
        raise NothingToScaleError(
            f"the images that scale a teacher all look alike to the features {features.name}",
            hint="set teacher.public to images of the kind of the private ones",
        )
    leading = slice(None, -dimensions - 1, -1)  # eigenvalues rise
    spread = np.sqrt(np.maximum(values[leading], 0.0) + SHRINKAGE * values[-1])
    return Whitening(
        mean=mean.astype(np.float32), projection=(vectors[:, leading] / spread).astype(np.float32)
    )
