"""What mechanisms share that ask every unit at every step: nobody is left out, so nothing is amplified.

Guarantee: the accountant's record and the sampler are of probability 1, whatever the numbers of a mechanism
are. Imports the engine inside functions. Source: the Gaussian mechanism, Dwork and Roth 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dp_diffusers.privacy.events import GaussianMechanism, whole

if TYPE_CHECKING:
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.engine.sampling import PoissonSampler


@dataclass(frozen=True, kw_only=True)
class EveryUnit:
    """`steps` releases about all units of a declared `population`; one moves each by at most `sensitivity`.

    `population` is public: it is stated, never counted. Raises `ParameterError` for numbers out of range.
    """

    name: ClassVar[str]
    sensitivity: ClassVar[float]
    not_private: ClassVar[bool] = False
    max_units: ClassVar[None] = None

    steps: int
    population: int

    def __post_init__(self) -> None:
        whole(1, steps=self.steps, population=self.population)

    @property
    def expected_units(self) -> int:
        """All of them."""
        return self.population

    @property
    def sampling_probability(self) -> float:
        """1: nobody is left out, so there is no amplification by sampling."""
        return 1.0

    def record(self, noise_multiplier: float, steps: int | None = None) -> GaussianMechanism:
        """The accountant's record of `steps` (all, if not given) releases at this noise."""
        return GaussianMechanism(
            name=self.name,
            steps=self.steps if steps is None else steps,
            population=self.population,
            expected_units=self.population,
            sampling_probability=1.0,
            clip_norm=self.sensitivity,
            noise_multiplier=noise_multiplier,
        )

    def require_noise(self, noise_multiplier: float) -> None:
        """Any noise will do."""

    def sampler(self, unit_count: int, keys: RunKeys) -> PoissonSampler:
        """Includes every unit: the sampler of probability 1."""
        from dp_diffusers.engine.sampling import PoissonSampler

        return PoissonSampler(unit_count, self.sampling_probability, keys)
