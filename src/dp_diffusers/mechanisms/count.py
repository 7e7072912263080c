"""One noisy number about all units: the sum of a value in [0, 1] of each, released once and paid for alone.

Guarantee: one unit moves the sum by at most 1, however many images it has and whatever their values are; the
noise needs the ledger's receipt. Imports the engine inside functions only. Source: the Gaussian mechanism on
a counting query, Dwork and Roth 2014; noise by Balle and Wang 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import numpy as np

from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms.every_unit import EveryUnit
from dp_diffusers.privacy.events import COUNT
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from dp_diffusers.engine.randomness import RunKeys

NAME: Final = COUNT
UNIT: Final = 1.0  # what one unit can move the count by
_SHARES: Final = 2**24  # values are multiples of 2^-24: sums of 2^29 units are exact


@dataclass(frozen=True, kw_only=True)
class Count(EveryUnit):
    """A count over all units of a declared `population`, once: a plan of one full-batch Gaussian event."""

    name: ClassVar[str] = NAME
    sensitivity: ClassVar[float] = UNIT

    steps: int = field(default=1, init=False)

    def private_gradient(
        self, parameters: Any, keys: RunKeys, noise_multiplier: float, plan_fingerprint: str
    ) -> NoReturn:
        """Raises `ParameterError`: a number is all that is released, and nothing has a gradient."""
        raise ParameterError("a count trains nothing, so it has no gradient", hint="use `noisy_count`")


def unit_total(values: np.ndarray, owner: np.ndarray, unit_count: int) -> float:
    """The sum over units of the mean value of each unit's images; exact, whatever their order.

    values: float `[N]`, one for each image; owner: int64 `[N]`. A unit's part lies in [0, 1]:

        value             counts as
        NaN, infinite     0
        below 0           0
        above 1           1
        any other         itself, rounded down to a multiple of 2^-24, as a unit's mean is
    """
    if values.shape != owner.shape:
        raise ParameterError(f"expected one value for each of {len(owner)} images, got {list(values.shape)}")
    known = np.where(np.isfinite(values), values, 0.0)  # before any comparison: a NaN would pass them all
    shares = np.floor(np.clip(known, 0.0, 1.0) * _SHARES).astype(np.int64)
    sums = np.zeros(unit_count, np.int64)
    np.add.at(sums, owner, shares)
    images = np.bincount(owner, minlength=unit_count)
    return int((sums // np.maximum(images, 1)).sum()) / _SHARES


def count_std(noise_multiplier: float) -> float:
    """Standard deviation of the noise of a count, in units; public."""
    from dp_diffusers.engine.noise import noise_std

    return noise_std(UNIT, noise_multiplier)


def noisy_count(
    total: float, keys: RunKeys, receipt: Receipt | None, *, noise_multiplier: float, plan_fingerprint: str
) -> float:
    """`total` with noise, on a grid that public numbers decide.

    Raises `GuaranteeError` unless the receipt was paid for this count, lane and plan, and for keys that have
    released a count before.
    """
    from dp_diffusers.engine.noise import noisy_number

    if receipt is None:
        raise GuaranteeError("noise needs the ledger's receipt for this count")
    receipt.redeem(0, keys.lane, plan_fingerprint)
    keys.claim(0)  # another ledger may have paid for the same draw
    return noisy_number(total, keys, 0, NAME, count_std(noise_multiplier))
