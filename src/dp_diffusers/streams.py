"""The seam through which randomness enters: a stream of numbers for each unit.

Guarantee asked of every implementation: row `i` of a result is a pure function of (stream, domain, step,
units[i]), and a shorter row is a prefix of a longer one. May import numpy only, so that data and diffusion
code can name the seam without knowing the engine behind it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class UnitStream(Protocol):
    """Randomness per unit."""

    def uniform(self, domain: str, step: int, units: np.ndarray, count: int) -> np.ndarray:
        """float64 `[U, count]` in [0, 1)."""

    def normal(self, domain: str, step: int, units: np.ndarray, count: int) -> np.ndarray:
        """float32 `[U, count]`, standard normal."""
