"""A noisy number of units per class, released once before the first step and paid for beside the steps.

Guarantee: one unit moves the counts by at most 1 in the Euclidean norm, however many images it has and
whatever their classes; the noise needs the ledger's receipt for this query. Source: the Gaussian mechanism on
a histogram, Dwork and Roth 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.side_query import released_sums
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.calibration import histogram_noise
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from dp_diffusers.engine.randomness import RunKeys

NAME: Final = "histogram"
_SHARES: Final = float(2**30)  # shares of a unit are multiples of 2^-30, so that sums of them are exact


def histogram_query(budget: Budget, classes: int) -> HistogramQuery:
    """The query over `classes` declared classes whose noise costs about a tenth of the budget alone."""
    noise = histogram_noise(budget.epsilon, budget.delta, budget.adjacency)
    return HistogramQuery(classes=classes, noise_multiplier=noise)


def query_of(queries: Sequence[object]) -> HistogramQuery | None:
    """The class histogram among the side queries of a plan, if there is one."""
    return next((query for query in queries if isinstance(query, HistogramQuery)), None)


def class_counts(position: np.ndarray, owner: np.ndarray, unit_count: int, classes: int) -> np.ndarray:
    """float64 `[classes]`: the sum over units of the shares of each unit's images that are of each class.

    position: int64 `[N]`, each image's class, below 0 for none of them; owner: int64 `[N]`. The shares of a
    unit are rounded down, add up to at most 1, and their sum does not depend on the order of the images.
    """
    images = np.bincount(owner, minlength=unit_count)
    share = np.floor(_SHARES / np.maximum(images, 1)) / _SHARES
    known = (position >= 0) & (position < classes)
    return np.bincount(position[known], weights=share[owner[known]], minlength=classes)


def noisy_counts(
    query: HistogramQuery, counts: np.ndarray, keys: RunKeys, receipt: Receipt, plan_fingerprint: str
) -> np.ndarray:
    """float64 `[classes]`: `counts` with the query's noise, on a grid that depends on public numbers alone.

    Raises `GuaranteeError` unless the receipt was paid for this query, lane and plan, and the second time
    that the same keys are asked.
    """
    if counts.shape != (query.classes,):
        raise ParameterError(f"expected counts of {query.classes} classes, got {list(counts.shape)}")
    return released_sums(query, counts, keys, receipt, plan_fingerprint)


def proportions(noisy: Sequence[float]) -> tuple[float, ...]:
    """Each class's part of the whole, noisy counts below 0 taken as 0; all alike where none is above 0."""
    positive = np.maximum(np.asarray(noisy, np.float64), 0.0)
    total = positive.sum()
    shares = positive / total if total > 0 else np.full(len(positive), 1.0 / len(positive))
    return tuple(float(share) for share in shares)
