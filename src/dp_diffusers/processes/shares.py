"""Which units of a step are whose: each process takes a run of units, with about as many rows as the others.

Guarantee: every unit has one process, whatever their number, so that it is clipped once. May import numpy.
"""

from __future__ import annotations

import numpy as np


def share_of(sizes: np.ndarray, rank: int, count: int) -> slice:
    """The places of the units of process `rank` of `count`. sizes: int64 `[U]`, rows of each unit.

    A unit belongs where the middle of its rows falls; no two processes differ by more rows than two units
    have. A function of public positions and the step's own sizes alone, the same in every process.
    """
    total = int(sizes.sum())
    if total == 0:
        return slice(0, len(sizes) if rank == 0 else 0)
    middles = 2 * np.cumsum(sizes, dtype=np.int64) - sizes  # in half rows: whole numbers, no rounding
    owners = middles * count // (2 * total)
    first, last = np.searchsorted(owners, [rank, rank + 1])
    return slice(int(first), int(last))
