"""Which layers matter most for the private images: one private gradient, asked once, paid beside the steps.

Guarantee: one unit moves the gradient by at most the clip norm, however many layers are asked about; sampling
and noise of the query share no draw with any step, and the noise needs the ledger's receipt for this query.
Imports the engine inside functions. Source: DP-SAPF (2026, arXiv 2605.30312), whose selection this pays for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dp_diffusers.errors import BudgetError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.calibration import SMALLEST_NOISE, calibrate_noise, rounded_up
from dp_diffusers.privacy.events import GaussianMechanism
from dp_diffusers.privacy.receipt import Receipt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dp_diffusers.engine.private_gradient import PrivateGradient
    from dp_diffusers.engine.randomness import Floats, RunKeys, Units

NAME: Final = "saliency"
SHARE: Final = 10.0  # alone the query would cost one part in so many of the budget


def saliency_query(budget: Budget, mechanism: DPSGD) -> GaussianMechanism:
    """The query of one step's sample and clip norm, whose noise costs about a tenth of the budget alone.

    Where even the least noise that is accounted for costs less, it has that noise.
    """

    def record_at(noise: float) -> GaussianMechanism:
        return record_of(mechanism, noise)

    try:
        found = calibrate_noise(budget.epsilon / SHARE, budget.delta, record_at, budget.adjacency)
    except BudgetError:
        return record_at(SMALLEST_NOISE)
    return record_at(rounded_up(found.noise_multiplier))


def record_of(mechanism: DPSGD, noise: float) -> GaussianMechanism:
    """The accountant's record of the query at this noise: one step's sample and clip norm."""
    return GaussianMechanism(
        name=NAME,
        steps=1,
        population=mechanism.population,
        expected_units=mechanism.expected_units,
        sampling_probability=mechanism.sampling_probability,
        max_units=mechanism.max_units,
        clip_norm=mechanism.clip_norm,
        noise_multiplier=noise,
    )


def query_of(queries: Sequence[object]) -> GaussianMechanism | None:
    """The saliency query among the side queries of a plan, if there is one."""
    found = (query for query in queries if isinstance(query, GaussianMechanism) and query.name == NAME)
    return next(found, None)


class QueryKeys:
    """The keys of a run as a side query may use them: the same key and lane, every stream its own.

    Stands where a sampler, a box or an objective expects `RunKeys`; what it claims is the query, once.
    """

    def __init__(self, keys: RunKeys, query: str = NAME) -> None:
        self._keys, self._query = keys, query

    @property
    def lane(self) -> bytes:
        """The lane of the keys."""
        return self._keys.lane

    @property
    def not_private(self) -> bool:
        """Whether they are test keys."""
        return self._keys.not_private

    def uniform(self, domain: str, step: int, units: Units, count: int) -> Floats:
        """As `RunKeys.uniform`, in a domain of the query's."""
        return self._keys.uniform(f"{self._query}/{domain}", step, units, count)

    def coarse_bits(self, domain: str, step: int, unit_count: int) -> np.ndarray:
        """As `RunKeys.coarse_bits`, in a domain of the query's."""
        return self._keys.coarse_bits(f"{self._query}/{domain}", step, unit_count)

    def fine_bits(self, domain: str, step: int, units: Units) -> np.ndarray:
        """As `RunKeys.fine_bits`, in a domain of the query's."""
        return self._keys.fine_bits(f"{self._query}/{domain}", step, units)

    def normal(self, domain: str, step: int, units: Units, count: int) -> np.ndarray:
        """As `RunKeys.normal`, in a domain of the query's."""
        return self._keys.normal(f"{self._query}/{domain}", step, units, count)

    def noise(self, step: int, name: str, size: int) -> Floats:
        """As `RunKeys.noise`, under a name of the query's."""
        return self._keys.noise(step, f"{self._query}/{name}", size)

    def claimed(self, step: int) -> bool:
        """Whether the query was released in this lane."""
        return self._keys.claimed(step, self._query)

    def claim(self, step: int) -> None:
        """Marks the query as released. Raises `GuaranteeError` the second time."""
        self._keys.claim(step, self._query)


class _OfTheQuery:
    """A receipt that the box redeems as one of a step, and the ledger made for the query."""

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt

    def redeem(self, step: int, lane: bytes, plan_fingerprint: str) -> None:
        """Uses the receipt up. Raises `GuaranteeError` unless it was paid for this query, lane and plan."""
        self._receipt.redeem(step, lane, plan_fingerprint, NAME)


def saliency_gradient(
    network: nn.Module, query: GaussianMechanism, keys: QueryKeys, plan_fingerprint: str
) -> PrivateGradient:
    """The closed box of the query: one clip over everything that is trainable in `network`."""
    from dp_diffusers.engine.private_gradient import PrivateGradient

    stand_in: Any = keys
    return PrivateGradient(
        network,
        clip_norm=query.clip_norm,
        noise_multiplier=query.noise_multiplier,
        expected_units=query.expected_units,
        keys=stand_in,
        plan_fingerprint=plan_fingerprint,
    )


def released_energies(
    box: PrivateGradient, layers: Iterable[str], query: GaussianMechanism, receipt: Receipt
) -> dict[str, float]:
    """For each layer the squared norm of its noisy gradient, less what the noise adds on average.

    layers: the layer of each parameter of the box, in its order. The expectation is the squared norm of the
    clipped sum; a number may be negative. Raises `GuaranteeError` for a receipt of anything else.
    """
    from dp_diffusers.engine.noise import noise_std

    released = box.release(0, _OfTheQuery(receipt))
    return energies(released, layers, noise_std(query.clip_norm, query.noise_multiplier))


def energies(released: Sequence[Tensor], layers: Iterable[str], std: float) -> dict[str, float]:
    """Squared norms by layer, less `std` squared for each number; post-processing of what was released."""
    found: dict[str, float] = {}
    for gradient, layer in zip(released, layers, strict=True):
        energy = float(gradient.double().square().sum()) - gradient.numel() * std**2
        found[layer] = found.get(layer, 0.0) + energy
    return found
