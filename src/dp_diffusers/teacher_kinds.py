"""The two kinds of teachers: a linear classifier of rows, and counts of units in clusters of public images.

Guarantee: an answer is a function of a row and of the released arrays alone. May import numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.count_regression import chances, regression_of
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
    """counts: float64 `[K, C]`, units of each class in each cluster; 0 where noise hides them.

    regression: float64 `[width + 1, C]`, of these counts on the centres; it gives the labels.
    """

    clusters: Clusters
    counts: Floats
    regression: Floats

    @classmethod
    def of(cls, clusters: Clusters, counts: Floats) -> Counted:
        """With a regression that is fitted here."""
        return cls(clusters=clusters, counts=counts, regression=regression_of(clusters.centres, counts))

    def arrays(self) -> dict[str, Floats]:
        """By the names that they have in a file."""
        return {"centres": self.clusters.centres, "counts": self.counts, "regression": self.regression}

    def answers(self, rows: Floats) -> Floats:
        """float64 `[N, C]`: chances of each class, were all that have units equally frequent.

        Zeros for an image whose cluster has no units.
        """
        return self.answers_in(rows, self.clusters.of(rows))

    def answers_in(self, rows: Floats, cluster: Integers) -> Floats:
        """The answers for images of these clusters, int64 `[N]`, -1 for none."""
        found = np.zeros((len(rows), self.counts.shape[1]))
        known = (cluster >= 0) & (self.counts.sum(1)[cluster] > 0)
        if known.any():
            there = np.where(self.counts.sum(0) > 0, 1.0, 0.0)
            found[known] = chances(self.regression, rows[known], there)
        return found

    def labels_in(self, rows: Floats, cluster: Integers) -> Integers:
        """int64 `[N]`: the place of the likeliest class; -1 where there are no units."""
        answers = self.answers_in(rows, cluster)
        return np.where(answers.any(1), answers.argmax(1), -1)

    def units(self) -> Floats:
        """float64 `[K]`: units of each cluster, of all classes.

        By least squares from its counts, its classes being as frequent as the regression says, and never more
        than the sum: that alone would add up what noise left in classes that nobody there is of.
        """
        share = self.counts.sum(0)
        if not share.any():
            return np.zeros(len(self.counts))
        part = chances(self.regression, self.clusters.centres, share)
        fitted = (self.counts * part).sum(1) / (part**2).sum(1)
        found: Floats = np.minimum(fitted, self.counts.sum(1))
        return found

    def weights(self, cluster: Integers) -> Floats:
        """float64 `[N]`: units of each image's cluster, for each of the images there.

        cluster: int64 `[N]`, -1 for none. Images drawn in proportion have as many in each cluster as there
        are units (post-stratification).
        """
        known = cluster >= 0
        there = np.maximum(np.bincount(cluster[known], minlength=len(self.counts)), 1)
        return np.where(known, self.units()[cluster] / there[cluster], 0.0)


Kind = Linear | Counted


def kind_of(arrays: Mapping[str, np.ndarray]) -> Kind:
    """From the arrays of a file. Raises `KeyError` where there are none of either kind."""
    if "weights" in arrays:
        return Linear(weights=arrays["weights"])
    clusters, counts = Clusters(centres=arrays["centres"]), arrays["counts"]
    if "regression" not in arrays:  # of a release that labelled by the commonest class
        return Counted.of(clusters, counts)
    return Counted(clusters=clusters, counts=counts, regression=arrays["regression"])
