"""A clip norm that follows a quantile of the units' gradient norms, by a noisy count in every step.

Guarantees: the next clip norm is a function of released numbers and public ones; the size of a batch plays no
part, as the count is divided by the expected number of units. May import torch's randomness of the engine.
Source: Andrew, Thakkar, McMahan and Ramaswamy, *Differentially Private Learning with Adaptive Clipping*
(2021, arXiv 1905.03871).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dp_diffusers.engine.noise import noise_std, noisy_number
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import positive, within

FARTHEST: Final = 1e6  # the clip norm stays within this factor of its start, whatever the noise does
DOMAIN: Final = "quantile"
_BEYOND: Final = 50.0  # e^50 is further than from one end of what FARTHEST allows to the other


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """The public numbers: which share of units stays unclipped, how fast, and the noise of their count.

    `noise` is the standard deviation on the sum of +1/2 (unclipped) to -1/2 (clipped) over the units of a
    step. Raises `ParameterError` for numbers out of range.
    """

    target: float
    rate: float
    noise: float

    def __post_init__(self) -> None:
        within(0.0, 1.0, target_quantile=self.target)
        positive(quantile_rate=self.rate, quantile_noise=self.noise)

    def share(self, surplus: float, expected_units: float, keys: RunKeys, step: int) -> float:
        """The released share of unclipped units, in [0, 1]; `surplus` is the sum of the halves, private."""
        released = noisy_number(surplus, keys, step, DOMAIN, noise_std(1.0, self.noise))
        return min(1.0, max(0.0, released / expected_units + 0.5))

    def followed(self, clip_norm: float, share: float, start: float) -> float:
        """The next clip norm: smaller where more units than the target stay unclipped."""
        by = max(-_BEYOND, min(_BEYOND, -self.rate * (share - self.target)))
        proposal = clip_norm * math.exp(by)
        return min(start * FARTHEST, max(start / FARTHEST, proposal))
