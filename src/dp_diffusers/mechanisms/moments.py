"""Means and spreads of each class: sums of products of coarse numbers, asked once, paid for beside the steps.

Guarantees: one unit moves the sums by at most 1 in the Euclidean norm, however many images it has, whatever
they show and whatever their classes; every number has noise, which needs the ledger's receipt for this query.
May import numpy. Sources: the Gaussian mechanism on second moments (Dwork et al.
2014, *Analyze Gauss*); what noise does to eigenvalues (Benaych-Georges and Nadakuditi 2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.row_sums import Floats, counted_rows, matrix_of, triangle_of
from dp_diffusers.mechanisms.side_query import noise_of_share, released_sums
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.events import MomentsQuery
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from torch import Tensor

    from dp_diffusers.engine.randomness import RunKeys

NAME: Final = "moments"
DIMENSIONS: Final = 128
SHARE: Final = 0.2
MOST_NUMBERS: Final = 2**26  # half a GiB, held a few times
LEAST_COUNT: Final = 8.0  # deviations of the noise: a class of a smaller count is like all of them


def moments_query(
    budget: Budget, classes: int, *, dimensions: int = DIMENSIONS, share: float = SHARE
) -> MomentsQuery:
    """The query over `classes` declared classes whose noise costs `share` of the budget's epsilon alone."""
    if size_of(dimensions + 1, classes) > MOST_NUMBERS:
        raise ParameterError(
            f"{classes} classes of {dimensions} dimensions are more than {MOST_NUMBERS:,} numbers to ask for",
            hint="lower warmup.dimensions",
        )
    noise = noise_of_share(budget, share)
    return MomentsQuery(classes=classes, dimensions=dimensions, noise_multiplier=noise)


def query_of(queries: Sequence[object]) -> MomentsQuery | None:
    """The query of moments among the side queries of a plan, if there is one."""
    return next((query for query in queries if isinstance(query, MomentsQuery)), None)


def size_of(width: int, classes: int) -> int:
    """How many numbers are asked: the products of `width` numbers, for each class."""
    return classes * (width * (width + 1) // 2)


class Products:
    """Adds up the vectors of images, `vector / images of its unit` for each.

    An image's row x, of length 1, and its class k make the vector that is 0 but for the k-th part, the upper
    triangle of x x^T with what is off its diagonal times sqrt 2: as long as x x^T, which is 1. A unit's
    vector is the mean over its images, hence no longer; `counted_rows` says what becomes of other rows.

    Sums are in float64; that other units' sums round otherwise where one comes or goes is far below the
    1e-4 by which the noise exceeds the accounted one.
    """

    def __init__(self, width: int, classes: int) -> None:
        self._products: Floats = np.zeros((classes, width, width))

    def add(self, rows: Floats, position: NDArray[np.int64], weight: Floats) -> None:
        """rows: `[N, width]`; position: `[N]`, each image's class; weight: `[N]`, 1 / images of its unit."""
        rows, position, weight = counted_rows(rows, position, weight, len(self._products))
        for k in range(len(self._products)):
            of_class = rows[position == k]
            self._products[k] += (of_class * weight[position == k][:, None]).T @ of_class

    @property
    def vector(self) -> Floats:
        """float64 `[size_of(width, classes)]`: one triangle after the other."""
        return np.concatenate([triangle_of(products) for products in self._products])


def noisy_products(
    query: MomentsQuery, sums: Floats, keys: RunKeys, receipt: Receipt, plan_fingerprint: str
) -> Floats:
    """`sums` with the query's noise on each number, on a grid that depends on public numbers alone.

    Raises `GuaranteeError` unless the receipt was paid for this query, lane and plan, and the second time
    that the same keys are asked.
    """
    size = size_of(query.dimensions + 1, query.classes)
    if sums.shape != (size,):
        raise ParameterError(f"expected {size} sums, got {list(sums.shape)}")
    return released_sums(query, sums, keys, receipt, plan_fingerprint)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """One for each class. means: float64 `[C, d]`; roots: float64 `[C, d, d]`, root root^T the covariance."""

    means: Floats
    roots: Floats

    def state(self) -> dict[str, Tensor]:
        """As tensors, for other processes."""
        import torch

        return {"means": torch.from_numpy(self.means), "roots": torch.from_numpy(self.roots)}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Gaussians:
        """What `state` gave."""
        return cls(means=state["means"].numpy(), roots=state["roots"].numpy())

    def draw(self, position: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        """float64 `[N, d]` of classes `[N]`."""
        found = np.empty((len(position), self.means.shape[1]))
        for k in range(len(self.means)):
            normal = rng.standard_normal((int((position == k).sum()), self.means.shape[1]))
            found[position == k] = self.means[k] + normal @ self.roots[k].T
        return found


def gaussians_of(released: Floats, *, classes: int, noise_multiplier: float) -> Gaussians:
    """Post-processing of the sums, with their noise or without.

    A row is [v, 1] over its length, so its products with the constant are a weighted count and a weighted
    mean of v. A class's covariance is that of all classes, and what in the difference stands out of the
    noise; a class that the noise hides is like all of them. `edge` is the largest eigenvalue of noise on
    products (Wigner 1958); that of the noise on means and counts is smaller, and left out.
    """
    matrices = np.stack([matrix_of(part) for part in np.split(released, classes)])
    hidden, edge = LEAST_COUNT * noise_multiplier, noise_multiplier * math.sqrt(2.0 * matrices.shape[1])
    mean, _ = _moments(matrices.sum(0), hidden)
    known = {k: _moments(one, hidden) for k, one in enumerate(matrices) if one[-1, -1] > hidden}
    counts = matrices[:, -1, -1]
    total = max(sum(counts[k] for k in known), hidden, 1.0)
    common = sum((counts[k] / total * known[k][1] for k in known), np.zeros_like(matrices[0, :-1, :-1]))
    edge_of_all = edge * math.sqrt(max(len(known), 1)) / total
    shared = _above_noise(common, edge_of_all)
    means, roots = np.tile(mean, (classes, 1)), np.tile(_root(shared), (classes, 1, 1))
    for k, (own_mean, covariance) in known.items():
        own = _above_noise(covariance - common, math.hypot(edge / counts[k], edge_of_all))
        means[k], roots[k] = own_mean, _root(shared + own)
    return Gaussians(means=means, roots=roots)


def _moments(products: Floats, least: float) -> tuple[Floats, Floats]:
    """Mean and covariance of v, from the products of rows."""
    count = max(products[-1, -1], least, np.finfo(float).tiny)
    mean = products[:-1, -1] / count
    return mean, products[:-1, :-1] / count - np.outer(mean, mean)


def _above_noise(matrix: Floats, edge: float) -> Floats:
    """The eigenvalues beyond +-edge, where noise hardly reaches, as they were before it pushed them out."""
    values, vectors = np.linalg.eigh(matrix)
    beyond = np.sqrt(np.maximum(values**2 - edge**2, 0.0))
    kept = np.where(np.abs(values) > edge, (values + np.sign(values) * beyond) / 2.0, 0.0)
    found: Floats = (vectors * kept) @ vectors.T
    return found


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return root
