"""The same loop without privacy: Poisson-sampled units, no clip, no noise, for ceilings.

Guarantee: everything made with it says `not_private`; it has no record, hence no epsilon, no receipt and no
ledger. Imports the engine inside functions, so that planning needs no torch. Source: plain SGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dp_diffusers.mechanisms.dpsgd import check_sizes

if TYPE_CHECKING:
    from dp_diffusers.engine.plain_gradient import PlainGradient
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.engine.sampling import PoissonSampler


@dataclass(frozen=True, kw_only=True)
class NonPrivate:
    """`steps` steps, each with about `expected_units` of `population` units; nothing is protected."""

    name: ClassVar[str] = "none"
    not_private: ClassVar[bool] = True

    steps: int
    expected_units: int
    population: int

    def __post_init__(self) -> None:
        check_sizes(self.steps, self.expected_units, self.population)

    @property
    def sampling_probability(self) -> float:
        """expected_units / population."""
        return self.expected_units / self.population

    def record(self, noise_multiplier: float, steps: int | None = None) -> None:
        """There is nothing to account for."""

    def mean_noise_std(self, noise_multiplier: float) -> float:
        """0: there is no noise."""
        return 0.0

    def sampler(self, unit_count: int, keys: RunKeys) -> PoissonSampler:
        """Includes each of `unit_count` units in a step on its own, as DP-SGD does."""
        from dp_diffusers.engine.sampling import PoissonSampler

        return PoissonSampler(unit_count, self.sampling_probability, keys)

    def private_gradient(
        self, parameters: Any, keys: RunKeys, noise_multiplier: float, plan_fingerprint: str
    ) -> PlainGradient:
        """The box with the same interface that neither clips nor adds noise; its receipt is None."""
        from dp_diffusers.engine.plain_gradient import PlainGradient

        return PlainGradient(parameters, expected_units=self.expected_units)
