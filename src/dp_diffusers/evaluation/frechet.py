"""The Fréchet distance of two sets of images: of the Gaussians with their means and covariances.

Guarantees 0 or more, and equality with other implementations where they are stable. May import numpy.
Heusel et al. (2017): |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.evaluation.embedding import Embedded


def frechet_distance(one: Embedded, other: Embedded) -> float:
    """Raises `ParameterError` for sets seen by different extractors."""
    one.require_same_features(other)
    apart = float(((one.mean - other.mean) ** 2).sum())
    spread = float(np.trace(one.covariance) + np.trace(other.covariance))
    return max(0.0, apart + spread - 2 * _trace_of_root(one.covariance, other.covariance))


def _trace_of_root(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """tr((A B)^½) of two covariances, as tr((A^½ B A^½)^½): symmetric, so no complex root can appear."""
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(np.maximum(values, 0.0))  # root @ root.T = one
    middle = root.T @ other @ root
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(middle), 0.0)).sum())
