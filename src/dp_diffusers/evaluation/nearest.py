"""How far each image is from the nearest synthetic one, as an extractor sees them.

Guarantees that an image's distance depends on that image, the synthetic ones and the extractor alone, that
copies are at 0, and that a private image without finite features is far from all rather than an error; how
many images are looked at is told to nobody. May import numpy. Nearest neighbours as a look for copies:
Meehan, Chaudhuri and Dasgupta 2020 (arXiv 2004.05675).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.evaluation.features import Features

Seen = Callable[[NDArray[np.float64]], None]
BLOCK: Final = 512
RESOLUTION: Final = (
    1e-4  # of a vector's length: far above float32's rounding, far below what images differ by
)


class Nearest:
    """The synthetic images, uint8 `[S, H, W, C]`, as `features` see them; memory for their vectors alone.

    resolution: distances below it are 0, as the same image among other images of a batch is not the same to
    the last bit. It follows from the synthetic images.
    """

    def __init__(self, features: Features, synthetic: NDArray[np.uint8]) -> None:
        self._features = features
        self._vectors = np.concatenate([part for _, part in self._blocks(synthetic)])
        self._squares = (self._vectors**2).sum(1)
        self.resolution = RESOLUTION * float(np.sqrt(self._squares.mean()))

    def of(
        self, images: NDArray[np.uint8], *, private: bool = False, seen: Seen = lambda vectors: None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of images uint8 `[N, H, W, C]`: distances float64 `[N]`, and the synthetic images, int64 `[N]`.

        private: an image whose features are not finite is at an infinite distance, where others raise
        `ParameterError`. seen: is given the vectors float64 `[B, D]` of each block, those that are finite.
        """
        distance, place = np.empty(len(images)), np.empty(len(images), np.int64)
        for start, vectors in self._blocks(images, finite=not private):
            known = np.isfinite(vectors).all(1)
            seen(vectors[known])
            vectors[~known] = 0.0  # before any product: 0 · NaN is NaN
            squared = self._squares - 2.0 * (vectors @ self._vectors.T)
            found = squared.argmin(1)
            here = slice(start, start + len(vectors))
            # the difference itself: squares of long vectors leave nothing of a small distance
            distance[here] = np.sqrt(((vectors - self._vectors[found]) ** 2).sum(1))
            distance[here][~known] = np.inf
            place[here] = found
        return np.where(distance < self.resolution, 0.0, distance), place

    def nearer(self, images: NDArray[np.uint8], threshold: float) -> NDArray[np.float64]:
        """float64 `[N]`: 1 for each private image nearer than `threshold`, else 0, as if it were alone."""
        return self.decided(images, self.of(images, private=True)[0], threshold)

    def decided(
        self, images: NDArray[np.uint8], distance: NDArray[np.float64], threshold: float
    ) -> NDArray[np.float64]:
        """`nearer` of images whose distances are known: close calls are made again without other images."""
        distance = distance.copy()
        for index in np.flatnonzero(np.abs(distance - threshold) <= self.resolution):
            distance[index] = self.of(images[index : index + 1], private=True)[0][0]
        return (distance < threshold).astype(np.float64)

    def _blocks(
        self, images: NDArray[np.uint8], *, finite: bool = True
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """(first image, vectors float64 [B, D]) for each block of images."""
        for start in range(0, len(images), BLOCK):
            yield start, self._features.of(images[start : start + BLOCK], finite=finite).astype(np.float64)


class Reached:
    """How near the images of a few vectors, float64 `[M, D]`, come to others that pass by in blocks."""

    def __init__(self, vectors: NDArray[np.float64]) -> None:
        self._vectors = vectors
        self._least = np.full(len(vectors), np.inf)

    def add(self, vectors: NDArray[np.float64]) -> None:
        """Others, `[B, D]`."""
        if not len(vectors):
            return
        squared = (vectors**2).sum(1) - 2.0 * (self._vectors @ vectors.T)
        found = vectors[squared.argmin(1)]
        self._least = np.minimum(self._least, np.sqrt(((self._vectors - found) ** 2).sum(1)))

    @property
    def distance(self) -> NDArray[np.float64]:
        """float64 `[M]`: to the nearest that passed by; infinite where none did."""
        return self._least
