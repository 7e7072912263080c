"""Private Evolution: every unit votes for the synthetic images nearest to its own, and noise hides each vote.

Guarantee: one unit moves the votes of an iteration by at most 1 in the Euclidean norm, however many images it
has; every count gets noise, those of zero votes too, against the ledger's receipt of that iteration. Imports
the engine inside functions. Source: Lin, Gopi, Kulkarni, Nori and Yekhanin 2024 (ICLR, arXiv 2305.15560).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import numpy as np

from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.every_unit import EveryUnit
from dp_diffusers.mechanisms.histogram import class_counts
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from dp_diffusers.engine.randomness import RunKeys

NAME: Final = "pe"
VOTE: Final = 1.0  # what one unit can move the votes by
NOISE: Final = "votes"  # the stream of the noise, no other release's


@dataclass(frozen=True, kw_only=True)
class PE(EveryUnit):
    """`steps` iterations in which all units of a declared `population` vote; nothing is trained.

    Guarantees
    - One unit moves the votes of an iteration by at most 1, whatever its images, ties and features are.
    - Sampling, record and noise follow from these two numbers: every unit is in every iteration.
    """

    name: ClassVar[str] = NAME
    sensitivity: ClassVar[float] = VOTE

    def private_gradient(
        self, parameters: Any, keys: RunKeys, noise_multiplier: float, plan_fingerprint: str
    ) -> NoReturn:
        """Raises `ParameterError`: votes are all that is released, and nothing has a gradient."""
        raise ParameterError(
            "the mechanism pe trains nothing, so it has no gradient", hint="use dpsgd, or `noisy_votes`"
        )


def votes(nearest: np.ndarray, owner: np.ndarray, unit_count: int, samples: int) -> np.ndarray:
    """float64 `[samples]`: the votes of all units, each of which shares one vote among its images.

    nearest: int64 `[N]`, the sample that each image votes for, below 0 for none; owner: int64 `[N]`. The sum
    over a unit's shares is at most 1, hence their Euclidean norm is; sums do not depend on the order.
    """
    return class_counts(nearest, owner, unit_count, samples)


def noisy_votes(
    counts: np.ndarray,
    keys: RunKeys,
    receipt: Receipt | None,
    *,
    step: int,
    noise_multiplier: float,
    plan_fingerprint: str,
) -> np.ndarray:
    """float64 `[samples]`: the votes with noise on every one, on a grid that public numbers decide.

    Raises `GuaranteeError` unless the receipt was paid for this iteration, lane and plan, and for an
    iteration that these keys have released before.
    """
    from dp_diffusers.engine.noise import noise_std, noisy_values
    from dp_diffusers.errors import GuaranteeError

    if receipt is None:
        raise GuaranteeError("noise needs the ledger's receipt for this iteration")
    receipt.redeem(step, keys.lane, plan_fingerprint)
    keys.claim(step)
    return noisy_values(counts, keys, step, NOISE, noise_std(VOTE, noise_multiplier))
