"""The two kinds of teachers: a linear classifier of rows, and counts of units in clusters of public images.

Guarantee: an answer is a function of a row and of the released arrays alone. May import numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.public_clusters import Clusters

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """weights: float64 `[width, C]`, a column for each class."""

    weights: Floats

    def arrays(self) -> dict[str, Floats]:
        """By the names that they have in a file."""
        return {"weights": self.weights}

    def answers(self, rows: Floats) -> Floats:
        """float64 `[N, C]`: near 1 for an image's class, near 0 for others."""
        found: Floats = rows @ self.weights
        return found

    def labels(self, rows: Floats) -> Integers:
        """int64 `[N]`: the place of the class with the largest answer."""
        found: Integers = self.answers(rows).argmax(1)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Counted:
    """counts: float64 `[K, C]`, units of each class in each cluster; 0 where noise hides them."""

    clusters: Clusters
    counts: Floats

    def arrays(self) -> dict[str, Floats]:
        """By the names that they have in a file."""
        return {"centres": self.clusters.centres, "counts": self.counts}

    def answers(self, rows: Floats) -> Floats:
        """float64 `[N, C]`: the part of each class in the image's cluster; zeros where it has no units."""
        return self.answers_in(self.clusters.of(rows))

    def answers_in(self, cluster: Integers) -> Floats:
        """The answers for images of these clusters, int64 `[N]`, -1 for none."""
        counts = np.where(cluster[:, None] >= 0, self.counts[cluster], 0.0)
        found: Floats = counts / np.maximum(counts.sum(1, keepdims=True), np.finfo(float).tiny)
        return found

    def labels_in(self, cluster: Integers) -> Integers:
        """int64 `[N]` of clusters: the place of the commonest class; -1 where there are no units."""
        answers = self.answers_in(cluster)
        return np.where(answers.any(1), answers.argmax(1), -1)

    def weights(self, cluster: Integers) -> Floats:
        """float64 `[N]`: units of the commonest class of each image's cluster, for each of the images there.

        cluster: int64 `[N]`, -1 for none. Images drawn in proportion have as many in each cluster as there
        are units (post-stratification).
        """
        known = cluster >= 0
        there = np.maximum(np.bincount(cluster[known], minlength=len(self.counts)), 1)
        return np.where(known, self.counts.max(1)[cluster] / there[cluster], 0.0)


Kind = Linear | Counted


def kind_of(arrays: Mapping[str, np.ndarray]) -> Kind:
    """From the arrays of a file. Raises `KeyError` where there are none of either kind."""
    if "weights" in arrays:
        return Linear(weights=arrays["weights"])
    return Counted(clusters=Clusters(centres=arrays["centres"]), counts=arrays["counts"])
