"""A mean over seeds and how far it may be trusted.

Guarantees that no interval is made of one value. What is not in it: how a figure would differ on other test
images. May import numpy and scipy. Student's t (1908).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and its 95 % interval; in per cent, cut to [0, 100], unless it is said otherwise."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], highest: float = 100.0) -> Interval:
        """Student's 95 % interval of two values or more, cut to [0, highest]."""
        mean = float(np.mean(values))
        reach = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
        return cls(mean=mean, low=max(0.0, mean - reach), high=min(highest, mean + reach))

    def to_dict(self) -> dict[str, float]:
        """{mean, low, high}, rounded to a thousandth."""
        return {name: round(getattr(self, name), 3) for name in ("mean", "low", "high")}

    def __str__(self) -> str:
        return f"{self.mean:.2f} % ({self.low:.2f} to {self.high:.2f})"


def numbers(values: Sequence[float], names: Sequence[str], digits: int = 3) -> dict[str, float | None]:
    """name → value, rounded, for JSON, which knows no NaN: that becomes None."""
    return {
        name: None if math.isnan(value) else round(value, digits)
        for name, value in zip(names, values, strict=True)
    }
