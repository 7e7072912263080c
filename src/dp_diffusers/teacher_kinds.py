"""The two kinds of teachers: a linear classifier of rows, and counts of units in clusters of public images.

Guarantee: an answer is a function of a row and of the released arrays alone. May import numpy and
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.public_clusters import Clusters

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
PENALTY: Final = 0.1  # scikit-learn's C, for counts as they are: many units are smoothed less
_MOST_ROUNDS: Final = 1000


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

    Labels are those of a logistic regression on the centres, each weighted by its counts: what the counts of
    one cluster leave open, its neighbours know, and images of one cluster may be of several classes.
    """

    clusters: Clusters
    counts: Floats

    def arrays(self) -> dict[str, Floats]:
        """By the names that they have in a file."""
        return {"centres": self.clusters.centres, "counts": self.counts}

    def answers(self, rows: Floats) -> Floats:
        """float64 `[N, C]`: chances of each class; zeros for an image whose cluster has no units."""
        return self.answers_in(rows, self.clusters.of(rows))

    def answers_in(self, rows: Floats, cluster: Integers) -> Floats:
        """The answers for images of these clusters, int64 `[N]`, -1 for none."""
        found = np.zeros((len(rows), self.counts.shape[1]))
        known = (cluster >= 0) & (self._units[cluster] > 0)
        if known.any():
            found[np.ix_(known, self._fitted.classes)] = self._fitted.chances(rows[known])
        return found

    def labels_in(self, rows: Floats, cluster: Integers) -> Integers:
        """int64 `[N]`: the place of the likeliest class; -1 where there are no units."""
        answers = self.answers_in(rows, cluster)
        return np.where(answers.any(1), answers.argmax(1), -1)

    def weights(self, cluster: Integers) -> Floats:
        """float64 `[N]`: units of each image's cluster, for each of the images there.

        cluster: int64 `[N]`, -1 for none. Images drawn in proportion have as many in each cluster as there
        are units (post-stratification).
        """
        known = cluster >= 0
        there = np.maximum(np.bincount(cluster[known], minlength=len(self.counts)), 1)
        return np.where(known, self._units[cluster] / there[cluster], 0.0)

    @cached_property
    def _units(self) -> Floats:
        found: Floats = self.counts.sum(1)
        return found

    @cached_property
    def _fitted(self) -> _Chances:
        return _Chances(self.clusters.centres, self.counts)


class _Chances:
    """Logistic regression of the classes that have units, on centres weighted by counts."""

    def __init__(self, centres: Floats, counts: Floats) -> None:
        from sklearn.linear_model import LogisticRegression

        where, labels = np.nonzero(counts)
        self.classes = np.unique(labels)
        self._of: LogisticRegression | None = None
        if len(self.classes) > 1:
            self._of = LogisticRegression(C=PENALTY, max_iter=_MOST_ROUNDS)
            self._of.fit(centres[where], labels, sample_weight=counts[where, labels])

    def chances(self, rows: Floats) -> Floats:
        """float64 `[N, len(classes)]`, each row adds up to 1."""
        return np.ones((len(rows), 1)) if self._of is None else np.asarray(self._of.predict_proba(rows))


Kind = Linear | Counted


def kind_of(arrays: Mapping[str, np.ndarray]) -> Kind:
    """From the arrays of a file. Raises `KeyError` where there are none of either kind."""
    if "weights" in arrays:
        return Linear(weights=arrays["weights"])
    return Counted(clusters=Clusters(centres=arrays["centres"]), counts=arrays["counts"])
