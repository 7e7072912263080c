"""DP-SGD: Poisson-sampled units, one clip per unit, Gaussian noise on the sum.

Guarantee: the record for the accountant, the sampler and the noisy gradient are derived from the same
fields. Imports the engine inside functions, so that planning needs no torch. Source: Abadi et al. 2016
(arXiv 1607.00133).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.events import GaussianMechanism, whole

if TYPE_CHECKING:
    from dp_diffusers.engine.private_gradient import PrivateGradient
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """`steps` steps, each with about `expected_units` of a declared `population` of units.

    `population` is public: it is stated, never counted. `max_units` is a hard limit of one step (truncated
    Poisson sampling over exactly `population` slots), None for none. Raises `ParameterError` for numbers out
    of range.
    """

    name: ClassVar[str] = "dpsgd"
    not_private: ClassVar[bool] = False

    steps: int
    expected_units: int
    population: int
    clip_norm: float = 1.0
    clipping: str = "flat"
    max_units: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self.steps, self.expected_units, self.population)
        if isinstance(self.clip_norm, bool) or not isinstance(self.clip_norm, int | float):
            raise ParameterError(f"expected clip_norm to be a number, got {self.clip_norm!r}")
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ParameterError(f"expected clip_norm finite and > 0, got {self.clip_norm}")
        object.__setattr__(self, "clip_norm", float(self.clip_norm))
        if self.clipping != "flat":
            raise ParameterError(
                f"expected clipping 'flat', got {self.clipping!r}", hint="this version clips flat"
            )
        if self.max_units is not None:
            check_limit(self.max_units, self.expected_units, self.population)

    @property
    def sampling_probability(self) -> float:
        """expected_units / population."""
        return self.expected_units / self.population

    def record(self, noise_multiplier: float, steps: int | None = None) -> GaussianMechanism:
        """The accountant's record of `steps` (all, if not given) steps at this noise."""
        return GaussianMechanism(
            name=self.name,
            steps=self.steps if steps is None else steps,
            population=self.population,
            expected_units=self.expected_units,
            sampling_probability=self.sampling_probability,
            max_units=self.max_units,
            clip_norm=self.clip_norm,
            noise_multiplier=noise_multiplier,
            clipping=self.clipping,
        )

    def sampler(self, unit_count: int, keys: RunKeys) -> PoissonSampler | TruncatedPoissonSampler:
        """Includes each of `unit_count` units in a step with the accounted probability, up to `max_units`."""
        from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler

        if self.max_units is None:
            return PoissonSampler(unit_count, self.sampling_probability, keys)
        return TruncatedPoissonSampler(
            unit_count, self.sampling_probability, keys, slots=self.population, max_units=self.max_units
        )

    def private_gradient(
        self, parameters: Any, keys: RunKeys, noise_multiplier: float, plan_fingerprint: str
    ) -> PrivateGradient:
        """The closed box that clips and adds the accounted noise; `parameters`: a module or parameters."""
        from dp_diffusers.engine.private_gradient import PrivateGradient

        return PrivateGradient(
            parameters,
            clip_norm=self.clip_norm,
            noise_multiplier=noise_multiplier,
            expected_units=self.expected_units,
            keys=keys,
            plan_fingerprint=plan_fingerprint,
            clipping=self.clipping,
        )


def check_sizes(steps: int, expected_units: int, population: int) -> None:
    """Raises `ParameterError` unless the three are whole numbers that fit together."""
    whole(1, steps=steps, expected_units=expected_units, population=population)
    if expected_units > population:
        raise ParameterError(
            f"expected expected_units <= population, got {expected_units} > {population}",
            hint="expected_units is the mean number of units in one step; population counts all units",
        )


def check_limit(max_units: int, expected_units: int, population: int) -> None:
    """Raises `ParameterError` unless `max_units` is a limit that a step can meet and mostly does not."""
    hint = "five standard deviations above expected_units costs nothing; null is no limit"
    whole(1, hint=hint, max_units=max_units)
    if not expected_units <= max_units < population:
        raise ParameterError(
            f"expected max_units in [expected_units, population) = [{expected_units}, {population}), "
            f"got {max_units}",
            hint=hint,
        )
