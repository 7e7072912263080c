"""Which class is likely where: a logistic regression of released counts on the centres they were counted at.

Guarantees that it is a function of numbers that are released. May import numpy and scikit-learn. What noise
hides in one cluster its neighbours know, and images of one cluster may be of several classes.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray

INVERSE_PENALTY: Final = 0.3  # scikit-learn's C, for counts as they are: many units are smoothed less
MOST_COUNTS: Final = 200_000  # are looked at, the largest of each class, each with a row of its own
NEVER: Final = -1e9  # the constant of a class without units
_MOST_ROUNDS: Final = 1000
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def regression_of(centres: Floats, counts: Floats) -> Floats:
    """float64 `[width + 1, C]`, a column for each class, its constant below.

    centres: float64 `[K, width]`; counts: float64 `[K, C]`, none below 0. Classes weigh alike in it, so that
    a rare one does not go under; one without units has no chance, unless none has any.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((centres.shape[1] + 1, counts.shape[1]))
    there = counts.any(0)
    found[-1, ~there] = NEVER
    if np.count_nonzero(there) < 2:
        return found
    place, label = _largest(counts)
    seen = counts[place, label]
    of_class = np.bincount(label, weights=seen, minlength=counts.shape[1])
    alike = seen * (seen.sum() / np.count_nonzero(there) / of_class[label])
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=_MOST_ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is kept as it is then
        fitted.fit(centres[place], label, sample_weight=alike)
    columns = fitted.classes_[-len(fitted.coef_) :]  # of two classes there is one column, against zeros
    found[:-1, columns], found[-1, columns] = fitted.coef_.T, fitted.intercept_
    return found


def chances(regression: Floats, rows: Floats) -> Floats:
    """float64 `[N, C]` of rows `[N, width]`: of each class, were all with units as frequent; 1 in all."""
    raised = rows @ regression[:-1] + regression[-1]
    found: Floats = np.exp(raised - raised.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    return found


def _largest(counts: Floats) -> tuple[Integers, Integers]:
    """Clusters and classes of the counts above 0, of each class the largest where there are very many."""
    quota = MOST_COUNTS // counts.shape[1]
    places = [np.flatnonzero(column) for column in counts.T]
    kept = [
        np.sort(place[np.argsort(-column[place], kind="stable")[:quota]])
        for place, column in zip(places, counts.T, strict=True)
    ]
    labels = [np.full(len(place), label) for label, place in enumerate(kept)]
    return np.concatenate(kept), np.concatenate(labels)
