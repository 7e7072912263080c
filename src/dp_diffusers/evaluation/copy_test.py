"""Whether more training units lie near synthetic images than held-out images explain: a test of one count.

Guarantees: the threshold and the limit of the count follow from held-out images and public numbers alone, and
a release that treats both alike is called copied in at most one case of a hundred, as far as the normal law
stands for a binomial of so many units with its noise, and held-out images are drawn one by one. May import
numpy and scipy. Order statistics as a baseline: share below the k-th of m is Beta(k, m + 1 - k) (Wilks 1941).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dp_diffusers.errors import DataError, ParameterError

QUANTILE: Final = 0.01  # of the held-out distances
FEWEST: Final = 20
FALSE_ALARM: Final = 0.01  # half of it for the baseline's own error, half for count and noise
MISSED: Final = 0.025
_TOO_FINE: Final = 10.0  # resolutions: a threshold below that cannot tell a copy from any other image


@dataclass(frozen=True, kw_only=True)
class CopyTest:
    """Is the noisy count of near units, of a declared `population`, above `limit`?

    held_out: images of the baseline; rank: the threshold is the distance of the rank-th nearest of them; std:
    of the count's noise, in units.
    """

    population: int
    held_out: int
    rank: int
    std: float

    @property
    def share_at_most(self) -> float:
        """The share of fresh images that are nearer than the threshold, but for half the false alarms."""
        return float(stats.beta.ppf(1 - FALSE_ALARM / 2, self.rank, self.held_out + 1 - self.rank))

    @property
    def limit(self) -> float:
        """The most units, noise included, that fresh images explain: a unit's part is in [0, 1]."""
        share = self.share_at_most
        spread = math.sqrt(self.std**2 + self.population * share * (1 - share))
        return self.population * share + float(stats.norm.ppf(1 - FALSE_ALARM / 2)) * spread

    @property
    def could_miss(self) -> int:
        """So many copied units, or more, are answered yes but for one case in forty, if no other is near."""
        return math.ceil(self.limit + float(stats.norm.ppf(1 - MISSED)) * self.std)

    def require_power(self) -> None:
        """Raises `ParameterError` where the answer would be no if every unit were copied."""
        if self.could_miss > self.population:
            raise ParameterError(
                f"{self.held_out} held-out images and this epsilon could miss copies of all "
                f"{self.population:,} units",
                hint="give more held-out images, or a larger --charge; nothing was charged",
            )

    def is_copied(self, noisy: float) -> bool:
        """The answer."""
        return noisy > self.limit


def threshold_of(distance: NDArray[np.float64], resolution: float) -> tuple[float, int]:
    """Distance below which an image counts as near, and its rank among those of the held-out images.

    Raises `DataError` for fewer than 20 of them, or where they are as near to synthetic images as copies are.
    """
    if len(distance) < FEWEST:
        raise DataError(
            f"expected at least {FEWEST} held-out images, got {len(distance)}",
            hint="a baseline needs them; 1,000 and more make a check that sees few copies",
        )
    rank = max(1, math.floor(QUANTILE * len(distance)))
    found = float(np.partition(distance, rank - 1)[rank - 1])
    if found <= _TOO_FINE * resolution:
        raise DataError(
            "synthetic images are copies of held-out ones, so nothing tells a copy of a training image",
            hint="look for images that are in both sets, or blank; give other held-out images or --features",
        )
    return found, rank
