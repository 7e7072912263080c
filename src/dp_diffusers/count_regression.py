"""Which class is likely where: a logistic regression of released counts on the centres they were counted at.

Guarantees that it is a function of centres and counts that are released, and that a class does not go under
because it is rare: classes weigh alike in it. May import numpy and scikit-learn. What the noise hides in one
cluster its neighbours know, and images of one cluster may be of several classes.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray

INVERSE_PENALTY: Final = 0.3  # scikit-learn's C, for counts as they are: many units are smoothed less
MOST_COUNTS: Final = 200_000  # the largest ones are looked at, each with a row of its own
_MOST_ROUNDS: Final = 1000
Floats = NDArray[np.float64]


def regression_of(centres: Floats, counts: Floats) -> Floats:
    """float64 `[width + 1, C]`, a column for each class, its constant below.

    centres: float64 `[K, width]`; counts: float64 `[K, C]`, none below 0.
    Zeros for classes without units, which `chances` leaves out, and where fewer than two have any.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((centres.shape[1] + 1, counts.shape[1]))
    of_class = counts.sum(0)
    classes = np.flatnonzero(of_class)
    if len(classes) < 2:
        return found
    alike = counts * (of_class.sum() / len(classes) / np.where(of_class > 0, of_class, 1.0))
    place, label = _largest(alike)
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=_MOST_ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is kept as it is then
        fitted.fit(centres[place], label, sample_weight=alike[place, label])
    columns = classes[-len(fitted.coef_) :]  # of two classes scikit-learn has one column, against zeros
    found[:-1, columns], found[-1, columns] = fitted.coef_.T, fitted.intercept_
    return found


def chances(regression: Floats, rows: Floats, share: Floats) -> Floats:
    """float64 `[N, C]` of rows `[N, width]`: each adds up to 1, with classes as frequent as `share` says.

    share: `[C]`, at least one above 0; a class with 0 has no chance.
    """
    with np.errstate(divide="ignore"):
        raised = rows @ regression[:-1] + regression[-1] + np.log(share)
    found: Floats = np.exp(raised - raised.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    return found


def _largest(weights: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clusters and classes of the weights above 0, of the largest where there are very many."""
    place, label = np.nonzero(weights)
    if len(place) > MOST_COUNTS:
        kept = np.sort(np.argsort(-weights[place, label], kind="stable")[:MOST_COUNTS])
        place, label = place[kept], label[kept]
    return place, label
