"""The sums that a classifier of public features is made of: released once, paid for beside the steps.

Guarantees: one unit moves the sums by at most 1 in the Euclidean norm, however many images it has, whatever
they show and whatever their classes; every number that is released has noise, which needs the ledger's
receipt for this query. May import numpy. Sources: the Gaussian mechanism (Dwork
and Roth 2014) on sufficient statistics (Wang 2018, arXiv 1803.02596), or on a histogram.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.histogram import class_counts
from dp_diffusers.mechanisms.row_sums import Floats, counted_rows, matrix_of, triangle_of
from dp_diffusers.mechanisms.side_query import noise_of_share, released_sums
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import TeacherQuery
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from dp_diffusers.engine.randomness import RunKeys

NAME: Final = "teacher"
DIMENSIONS: Final = 128
SHARE: Final = 0.3
LEAST_RIDGE: Final = 1e-3  # of a unit's mean square in one direction, where there is no noise to balance
LEAST_COUNT: Final = 1.5  # deviations of the noise: a count below may well be nobody's, and is taken for none
MOST_NUMBERS: Final = 2**26  # half a GiB, held a few times


def teacher_query(
    budget: Budget,
    classes: int,
    *,
    dimensions: int = DIMENSIONS,
    share: float = SHARE,
    clusters: int | None = None,
) -> TeacherQuery:
    """The query over `classes` declared classes whose noise costs `share` of the budget's epsilon alone.

    clusters: how many groups of images units are counted in; None asks for sums of products.
    """
    noise = noise_of_share(budget, share)
    query = TeacherQuery(classes=classes, dimensions=dimensions, noise_multiplier=noise, clusters=clusters)
    if numbers_of(query) > MOST_NUMBERS:
        raise ParameterError(
            f"a teacher of {classes} classes asks for {numbers_of(query):,} numbers, more than "
            f"{MOST_NUMBERS:,}",
            hint="lower teacher.dimensions, or teacher.clusters",
        )
    return query


def query_of(queries: Sequence[object]) -> TeacherQuery | None:
    """The teacher's query among the side queries of a plan, if there is one."""
    return next((query for query in queries if isinstance(query, TeacherQuery)), None)


def numbers_of(query: TeacherQuery) -> int:
    """How many numbers the query releases."""
    if query.clusters is not None:
        return query.clusters * query.classes
    return size_of(query.dimensions + 1, query.classes)


def cluster_counts(
    clusters: int,
    classes: int,
    cluster: NDArray[np.int64],
    position: NDArray[np.int64],
    owner: NDArray[np.int64],
    unit_count: int,
) -> Floats:
    """float64 `[clusters * classes]`: units by cluster and class, each with its images' share of 1 in all.

    cluster, position: int64 `[N]`, each image's cluster and class, below 0 for none; owner: int64 `[N]`.
    """
    known = (cluster >= 0) & (cluster < clusters) & (position >= 0) & (position < classes)
    place = np.where(known, cluster * classes + position, -1)
    return class_counts(place, owner, unit_count, clusters * classes)


def counts_of(released: Floats, *, classes: int, noise_multiplier: float) -> Floats:
    """float64 `[clusters, classes]`: post-processing; what may well be noise alone is 0."""
    counts = released.reshape(-1, classes)
    return np.where(counts > LEAST_COUNT * noise_multiplier, counts, 0.0)


def size_of(width: int, classes: int) -> int:
    """How many numbers are released: the products of `width` numbers, and those numbers for each class."""
    return width * (width + 1) // 2 + width * classes


class Sums:
    """Adds up the vectors of images, `vector / images of its unit` for each.

    An image's row x, of length 1, and its class k make the vector [upper triangle of x x^T with what is off
    its diagonal times sqrt 2; x in the k-th of the slots] / sqrt 2: the triangle is as long as x x^T, so the
    whole has length 1. A unit's vector is the mean over its images, hence no longer; `counted_rows` says what
    becomes of other rows.

    Sums are in float64; that other units' sums round otherwise where one comes or goes is far below the
    1e-4 by which the noise exceeds the accounted one.
    """

    def __init__(self, width: int, classes: int) -> None:
        self._products: Floats = np.zeros((width, width))
        self._by_class: Floats = np.zeros((classes, width))

    def add(self, rows: Floats, position: NDArray[np.int64], weight: Floats) -> None:
        """rows: `[N, width]`; position: `[N]`, each image's class; weight: `[N]`, 1 / images of its unit."""
        rows, position, weight = counted_rows(rows, position, weight, len(self._by_class))
        weighted = rows * weight[:, None]
        self._products += weighted.T @ rows
        one_hot = np.zeros((len(rows), len(self._by_class)))
        one_hot[np.arange(len(rows)), position] = 1.0
        self._by_class += one_hot.T @ weighted

    @property
    def vector(self) -> Floats:
        """float64 `[size_of(width, classes)]`: triangle row by row, then the slots."""
        return np.concatenate([triangle_of(self._products), self._by_class.ravel()]) / math.sqrt(2.0)


def noisy_sums(
    query: TeacherQuery, sums: Floats, keys: RunKeys, receipt: Receipt, plan_fingerprint: str
) -> Floats:
    """`sums` with the query's noise on each number, on a grid that depends on public numbers alone.

    Raises `GuaranteeError` unless the receipt was paid for this query, lane and plan, and the second time
    that the same keys are asked.
    """
    size = numbers_of(query)
    if sums.shape != (size,):
        raise ParameterError(f"expected {size} sums, got {list(sums.shape)}")
    return released_sums(query, sums, keys, receipt, plan_fingerprint)


def weights_of(released: Floats, *, classes: int, population: int, noise_multiplier: float) -> Floats:
    """float64 `[width, classes]`: ridge regression on one column per class, from sums with their noise.

    Post-processing. The matrix of products is symmetric and has no negative eigenvalue, so what noise made
    negative is 0. The ridge is public: 2 sigma sqrt(width), the largest eigenvalue of the noise alone (Wigner
    1958), and a thousandth of population / width. noise_multiplier: 0 for sums without noise.
    """
    width = _width_of(len(released), classes)
    products, by_class = np.split(released * math.sqrt(2.0), [width * (width + 1) // 2])
    values, vectors = np.linalg.eigh(matrix_of(products))
    ridge = 2.0 * noise_multiplier * math.sqrt(width) + LEAST_RIDGE * population / width
    solved: Floats = vectors @ (
        (vectors.T @ by_class.reshape(classes, width).T) / (np.maximum(values, 0.0) + ridge)[:, None]
    )
    return solved


def _width_of(size: int, classes: int) -> int:
    """The width at which so many numbers are released. Raises `ParameterError` where there is none."""
    slope = classes + 0.5
    width = round(math.sqrt(slope**2 + 2.0 * size) - slope)
    if width < 1 or size_of(width, classes) != size:
        raise ParameterError(f"no teacher of {classes} classes is made of {size} sums")
    return width
