"""The two kinds of teachers: a linear classifier of rows, and counts of units in clusters of images.

Guarantee: an answer is a function of a row and of the released arrays alone. May import numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.teaching.count_regression import chances, regression_of
from dp_diffusers.teaching.public_clusters import Clusters

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
PRIOR: Final = 10.0  # deviations of the noise: units that the regression stands for in each cluster
LEAST_TOTAL: Final = 3.0  # deviations of all noise of a class: below, its units may be nobody's
COUNTS: Final = ("counts", "prior", "of_class")


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

    regression: float64 `[width + 1, C]`, of these counts on the centres. prior: for how many units it stands
    in each cluster, beside the counted ones; 0 without noise. of_class: float64 `[C]`, units of each class.
    """

    clusters: Clusters
    counts: Floats
    regression: Floats
    prior: float
    of_class: Floats

    @classmethod
    def of(cls, clusters: Clusters, counts: Floats, totals: Floats, noise: float) -> Counted:
        """totals: float64 `[C]`, all released numbers of a class added up; noise: deviation of each."""
        hidden = LEAST_TOTAL * noise * math.sqrt(len(clusters))  # noise alone seldom adds up to more
        largest = math.sqrt(2 * math.log(counts.size)) * noise  # of all of the noise, about (Gumbel)
        sure = np.where(counts > largest + noise, counts, 0.0).sum(0)
        seen = (totals > hidden) | (sure > 0)
        floor = np.where(seen, sure, hidden)
        return cls(
            clusters=clusters,
            counts=counts,
            regression=regression_of(clusters.centres, np.where(seen, counts, 0.0)),
            prior=PRIOR * noise,
            of_class=np.where(counts.any(0), np.maximum(totals, floor), 0.0),
        )

    def arrays(self) -> dict[str, Floats]:
        """By the names that they have in a file."""
        smoothed = {"regression": self.regression, "prior": np.array([self.prior]), "of_class": self.of_class}
        return {"centres": self.clusters.centres, "counts": self.counts, **smoothed}

    def answers(self, rows: Floats) -> Floats:
        """float64 `[N, C]`: the part of each class, by counts of the image's cluster and by the regression.

        Zeros for an image whose cluster has no units.
        """
        return self.answers_in(rows, self.clusters.of(rows))

    def answers_in(self, rows: Floats, cluster: Integers) -> Floats:
        """The answers for images of these clusters, int64 `[N]`, -1 for none."""
        found = np.zeros((len(rows), self.counts.shape[1]))
        known = (cluster >= 0) & (self.counts[cluster].sum(1) > 0)
        found[known] = self._parts(self.counts[cluster[known]], rows[known])
        return found

    def labels_in(self, rows: Floats, cluster: Integers) -> Integers:
        """int64 `[N]`: the place of the likeliest class; -1 where there are no units."""
        answers = self.answers_in(rows, cluster)
        return np.where(answers.any(1), answers.argmax(1), -1)

    def units(self) -> Floats:
        """float64 `[K]`: units of each cluster, of all classes.

        By least squares from its counts, its classes being mixed as the answers at its centre say, and never
        more than the sum, which alone would add up what noise left in classes that nobody there is of.
        """
        found, some = np.zeros(len(self.counts)), self.counts.any(1)
        counts = self.counts[some]
        parts = self._parts(counts, self.clusters.centres[some])
        found[some] = np.minimum((counts * parts).sum(1) / (parts**2).sum(1), counts.sum(1))
        return found

    def weights(self, cluster: Integers) -> Floats:
        """float64 `[N]`: units of each image's cluster, for each of the images there.

        cluster: int64 `[N]`, -1 for none. Images drawn in proportion have as many in each cluster as there
        are units (post-stratification).
        """
        known = cluster >= 0
        there = np.maximum(np.bincount(cluster[known], minlength=len(self.counts)), 1)
        return np.where(known, self.units()[cluster] / there[cluster], 0.0)

    def _parts(self, counts: Floats, rows: Floats) -> Floats:
        """float64 `[N, C]`, adding up to 1: counts of the rows' clusters, and the regression for the rest."""
        found: Floats = counts + self.prior * chances(self.regression, rows)
        found /= found.sum(1, keepdims=True)
        return found


Kind = Linear | Counted


def kind_of(arrays: Mapping[str, np.ndarray]) -> Kind:
    """From the arrays of a file.

    Raises `KeyError` where there are none of either kind, `ValueError` where they do not fit together.
    """
    if "weights" in arrays:
        return Linear(weights=arrays["weights"])
    centres, counts = arrays["centres"], arrays["counts"]
    if centres.ndim != 2 or counts.ndim != 2 or not len(counts):
        raise ValueError("expected centres [K, width] and counts [K, C]")
    (width, classes) = (centres.shape[1], counts.shape[1])
    plain = {"regression": np.zeros((width + 1, classes)), "prior": np.zeros(1), "of_class": counts.sum(0)}
    found = {**plain, **arrays}  # a release without them labelled by counts alone
    shapes = {"centres": (len(counts), width), "counts": counts.shape}
    for name, shape in {**shapes, **{name: array.shape for name, array in plain.items()}}.items():
        _require_sound(name, found[name], shape)
    return Counted(
        clusters=Clusters(centres=centres),
        counts=counts,
        regression=found["regression"],
        prior=float(found["prior"][0]),
        of_class=found["of_class"],
    )


def _require_sound(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` for another shape, for what is not finite, and for a count below 0."""
    if array.shape != shape or not np.isfinite(array).all() or (name in COUNTS and (array < 0).any()):
        raise ValueError(f"{name} does not fit")
