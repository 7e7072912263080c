"""What the side queries share that every unit takes part in: noise by a share of the budget, and the release.

Guarantee: every number that is released has noise, which needs the ledger's receipt for this query and a draw
that was never used. May import numpy; the engine inside functions. Source: the Gaussian mechanism (Dwork and
Roth 2014), for sums that one unit moves by at most 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.calibration import noise_alone
from dp_diffusers.privacy.events import Record
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from dp_diffusers.engine.randomness import RunKeys

Floats = NDArray[np.float64]


def noise_of_share(budget: Budget, share: float) -> float:
    """The noise multiplier of a query that would cost `share` of the budget's epsilon alone."""
    if not 0 < share < 1:
        raise ParameterError(f"expected share in (0, 1), got {share}")
    return noise_alone(share * budget.epsilon, budget.delta, budget.adjacency)


def released_sums(
    query: Record, sums: Floats, keys: RunKeys, receipt: Receipt, plan_fingerprint: str
) -> Floats:
    """`sums` with the query's noise on each number, on a grid that depends on public numbers alone.

    Raises `GuaranteeError` unless the receipt was paid for this query, lane and plan, and the second time
    that the same keys are asked.
    """
    from dp_diffusers.engine.noise import noise_std, noisy_values

    receipt.redeem(0, keys.lane, plan_fingerprint, query.name)
    keys.claim(0, query.name)  # another ledger may have paid for the same draw
    return noisy_values(sums, keys, 0, query.name, noise_std(1.0, query.noise_multiplier))
