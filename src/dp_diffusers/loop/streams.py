"""The seam through which randomness enters: a stream of numbers for each unit.

Guarantee asked of every implementation: row `i` of a result is a pure function of (stream, domain, step,
units[i]), and a shorter row is a prefix of a longer one. May import numpy only, so that data and diffusion
code can name the seam without knowing the engine behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class UnitStream(Protocol):
    """Randomness per unit."""

    def uniform(self, domain: str, step: int, units: np.ndarray, count: int) -> np.ndarray:
        """float64 `[U, count]` in [0, 1)."""

    def normal(self, domain: str, step: int, units: np.ndarray, count: int) -> np.ndarray:
        """float32 `[U, count]`, standard normal."""


def by_width(counts: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Units of like need, so that one unit of 3,000 rows does not make 10,000 others as wide.

    counts: int `[U]`, numbers that each unit needs. Yields: `(members [M], width)`, positions in `counts` and
    their largest count: a table of M x width is at least half full. Units that need nothing are in no group.
    """
    sizes = np.frexp(counts.astype(np.float64))[1]
    for size in np.unique(sizes[counts > 0]):
        members = np.flatnonzero((sizes == size) & (counts > 0))
        yield members, int(counts[members].max())
