"""DP-SGD: Poisson-sampled units, one clip per unit, Gaussian noise on the sum.

Guarantee: the record for the accountant, the sampler and the noisy gradient are derived from the same
fields. Imports the engine inside functions, so that planning needs no torch. Source: Abadi et al. 2016
(arXiv 1607.00133).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dp_diffusers.errors import ParameterError, unknown_name, within
from dp_diffusers.privacy.events import CLIPPINGS, GaussianMechanism, check_quantile, whole
from dp_diffusers.privacy.quantile_noise import gradient_noise
from dp_diffusers.privacy.record_checks import CLIP_NORMS

if TYPE_CHECKING:
    from dp_diffusers.engine.private_gradient import PrivateGradient
    from dp_diffusers.engine.quantile import Quantile
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler

_QUANTILE: Final[dict[str, float]] = {"target_quantile": 0.5, "quantile_rate": 0.2}
_UNITS_PER_NOISE: Final = 20.0  # expected units for each unit of noise on the count (Andrew et al. 2021)


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """`steps` steps, each with about `expected_units` of a declared `population` of units.

    `population` is public: it is stated, never counted. `max_units` is a hard limit of one step (truncated
    Poisson sampling over exactly `population` slots), None for none. `clipping` is one of `CLIPPINGS`; with
    `adaptive`, `clip_norm` is the start, and None takes 0.5 for `target_quantile`, 0.2 for `quantile_rate`
    and expected_units / 20 for `quantile_noise`. Raises `ParameterError` for numbers out of range.
    """

    name: ClassVar[str] = "dpsgd"
    not_private: ClassVar[bool] = False

    steps: int
    expected_units: int
    population: int
    clip_norm: float = 1.0
    clipping: str = "flat"
    max_units: int | None = None
    target_quantile: float | None = None
    quantile_rate: float | None = None
    quantile_noise: float | None = None

    def __post_init__(self) -> None:
        check_sizes(self.steps, self.expected_units, self.population)
        if isinstance(self.clip_norm, bool) or not isinstance(self.clip_norm, int | float):
            raise ParameterError(f"expected clip_norm to be a number, got {self.clip_norm!r}")
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ParameterError(f"expected clip_norm finite and > 0, got {self.clip_norm}")
        within(
            *CLIP_NORMS, hint="gradients are float32: nothing of another size fits", clip_norm=self.clip_norm
        )
        object.__setattr__(self, "clip_norm", float(self.clip_norm))
        if self.clipping not in CLIPPINGS:
            raise unknown_name("clipping", str(self.clipping), CLIPPINGS)
        self._settle_quantile()
        if self.max_units is not None:
            check_limit(self.max_units, self.expected_units, self.population)

    def _settle_quantile(self) -> None:
        """Fills in what adaptive clipping needs and was not said; refuses it beside another clipping."""
        if self.clipping == "adaptive":
            usual = {**_QUANTILE, "quantile_noise": self.expected_units / _UNITS_PER_NOISE}
            for name, value in usual.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        check_quantile(self.clipping, self._quantile_numbers())

    def _quantile_numbers(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in (*_QUANTILE, "quantile_noise")}

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
            **self._quantile_numbers(),
        )

    def require_noise(self, noise_multiplier: float) -> None:
        """Raises `ParameterError` where the count of adaptive clipping leaves no noise for the gradient."""
        self._gradient_noise(noise_multiplier)

    def mean_noise_std(self, noise_multiplier: float) -> float:
        """Standard deviation of the noise in each entry of the first step's mean gradient."""
        return self._gradient_noise(noise_multiplier) * self.clip_norm / self.expected_units

    def _gradient_noise(self, noise_multiplier: float) -> float:
        """Noise multiplier of the sum: the accounted one, or what a count beside it needs."""
        if self.quantile_noise is None:
            return noise_multiplier
        return gradient_noise(noise_multiplier, self.quantile_noise)

    def _quantile(self) -> Quantile | None:
        from dp_diffusers.engine.quantile import Quantile

        if self.target_quantile is None or self.quantile_rate is None or self.quantile_noise is None:
            return None
        return Quantile(target=self.target_quantile, rate=self.quantile_rate, noise=self.quantile_noise)

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
            noise_multiplier=self._gradient_noise(noise_multiplier),
            expected_units=self.expected_units,
            keys=keys,
            plan_fingerprint=plan_fingerprint,
            clipping=self.clipping,
            quantile=self._quantile(),
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
