"""The mechanisms that a run may charge for, as records of public numbers.

Guarantee: a record that exists is in range, and the accountant's event is derived from it alone, so a
certificate and a ledger can say everything there is to say with a record. Imports dp_accounting inside
functions only. The constitution of this module is that of dp_accounting's `dp_event`: a record is never
removed, the meaning of a field never changes, new fields are optional.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from dp_diffusers.errors import ParameterError, positive, unknown_name

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Record(Protocol):
    """What ledger, certificate and accountant need of a mechanism."""

    @property
    def name(self) -> str:
        """Key of the record in `RECORDS`."""

    @property
    def steps(self) -> int:
        """How often the mechanism ran; 0 is allowed and costs nothing."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over what one unit can add to one step's sum."""

    @property
    def sampling(self) -> str:
        """How units come into a step: "poisson", "truncated", or "none" where all of them do."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""

    def event(self) -> Any:
        """The `dp_accounting.DpEvent` of all steps."""

    def with_steps(self, steps: int) -> Self:
        """The same mechanism, run `steps` times."""

    def step_deviation(self) -> float:
        """Rough standard deviation of one step's privacy loss; the accountant's grid must be finer."""

    def step_range(self) -> float:
        """Rough largest privacy loss of one step; the accountant's grid has so many cells at most."""


_QUANTILE: Final = ("target_quantile", "quantile_rate", "quantile_noise")
CLIPPINGS: Final = ("flat", "automatic", "per_layer", "adaptive")


_FAR: Final = 8.0  # deviations of a Gaussian, beyond which lie 1e-15 of it


@dataclass(frozen=True, kw_only=True)
class GaussianMechanism:
    """Poisson-sampled Gaussian mechanism, `steps` times: DP-SGD (Abadi et al. 2016, arXiv 1607.00133).

    Every step includes each unit on its own with `sampling_probability` = `expected_units` / `population`,
    lets it move the sum by at most `clip_norm` in the Euclidean norm, and adds Gaussian noise of standard
    deviation `noise_multiplier` x `clip_norm`. With `max_units` the step is drawn from exactly `population`
    slots, empty ones included, and of more than `max_units` that come a uniformly random `max_units` stay
    (arXiv 2508.15089). With clipping `adaptive`, `clip_norm` is where the clip norm starts, and part of a
    step is a count with noise `quantile_noise` (`quantile_noise.gradient_noise` says what remains for the
    sum); `noise_multiplier` is that of the two together. Under the name `pe` the sum of a step are votes
    (Private Evolution) of all units; under `saliency` it is a gradient that a side query asks for, once;
    under `count` it is one number that is asked of a finished run, with a part in [0, 1] of each unit.
    Raises `ParameterError` for numbers out of range.
    """

    name: str = "dpsgd"
    steps: int
    population: int
    expected_units: int
    sampling_probability: float
    max_units: int | None = None
    clip_norm: float
    noise_multiplier: float
    clipping: str = "flat"
    target_quantile: float | None = None
    quantile_rate: float | None = None
    quantile_noise: float | None = None

    def __post_init__(self) -> None:
        _require_own_name(self)
        whole(0, steps=self.steps)
        check_quantile(self.clipping, {name: getattr(self, name) for name in _QUANTILE})
        whole(1, population=self.population, expected_units=self.expected_units)
        positive(clip_norm=self.clip_norm, noise_multiplier=self.noise_multiplier)
        if not 0.0 < self.sampling_probability <= 1.0:
            raise ParameterError(
                f"expected sampling probability in (0, 1], got {self.sampling_probability}",
                hint="raise population or lower expected_units",
            )
        if self.max_units is not None:
            whole(1, max_units=self.max_units)
            if self.max_units > self.population:
                raise ParameterError(
                    f"expected max_units <= population = {self.population}, got {self.max_units}"
                )

    @property
    def sampling(self) -> str:
        """ "poisson"; "truncated" where `max_units` limits a step; "none" where every unit is in each."""
        if self.max_units is not None:
            return "truncated"
        return "none" if self.sampling_probability == 1.0 else "poisson"

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; `record_from_dict` reads it back. Those of adaptive clipping only with it."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in _QUANTILE or value is not None}

    def with_steps(self, steps: int) -> GaussianMechanism:
        """The same mechanism, run `steps` times."""
        return dataclasses.replace(self, steps=steps)

    def event(self) -> Any:
        """`SelfComposed(PoissonSampled(q, Gaussian(sigma)), steps)`, a `dp_accounting.DpEvent`.

        With `max_units` the inner event is `TruncatedSubsampledGaussian`.
        """
        import dp_accounting

        if self.steps == 0:
            return dp_accounting.NoOpDpEvent()
        return dp_accounting.SelfComposedDpEvent(self._step(), self.steps)

    def _step(self) -> Any:
        import dp_accounting

        if self.max_units is None:
            gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
            return dp_accounting.PoissonSampledDpEvent(self.sampling_probability, gaussian)
        return dp_accounting.TruncatedSubsampledGaussianDpEvent(
            dataset_size=self.population,
            sampling_probability=self.sampling_probability,
            truncated_batch_size=self.max_units,
            noise_multiplier=self.noise_multiplier,
        )

    def step_deviation(self) -> float:
        """q sqrt(exp(1 / sigma^2) - 1): the chi distance of one step (Bu et al. 2020, arXiv 1911.11607)."""
        exponent = min(self.noise_multiplier**-2, 700.0)
        return self.sampling_probability * math.sqrt(math.expm1(exponent))

    def step_range(self) -> float:
        """The largest loss of one step, but for draws beyond `_FAR` deviations of the noise."""
        return _largest_loss(self.sampling_probability, self.noise_multiplier)

    def deviations_to_limit(self) -> float:
        """How far `max_units` lies above the mean number of units, in standard deviations; inf without."""
        if self.max_units is None:
            return math.inf
        mean = self.population * self.sampling_probability
        spread = math.sqrt(mean * (1.0 - self.sampling_probability))
        above = self.max_units - mean
        return above / spread if spread else math.copysign(math.inf, above)


def _largest_loss(probability: float, noise: float) -> float:
    """log(1 + q (exp((2 x - 1) / (2 sigma^2)) - 1)): of a sampled Gaussian at x, `_FAR` sigma above 1."""
    exponent = (1.0 + 2.0 * _FAR * noise) / (2.0 * noise**2)
    if exponent > 700.0:  # where q exp(…) is all that is left of it
        return exponent + math.log(probability)
    return math.log1p(probability * math.expm1(exponent))


class _GaussianQuery:
    """What side queries share that every unit takes part in: Gaussian noise on a sum, `steps` times."""

    steps: int
    noise_multiplier: float

    @property
    def sampling(self) -> str:
        """ "none": every unit is counted."""
        return "none"

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; `record_from_dict` reads it back."""
        return dataclasses.asdict(cast("Any", self))

    def with_steps(self, steps: int) -> Self:
        """The same query, asked `steps` times."""
        changed: Self = dataclasses.replace(cast("Any", self), steps=steps)
        return changed

    def event(self) -> Any:
        """`SelfComposed(Gaussian(sigma), steps)`, a `dp_accounting.DpEvent`."""
        import dp_accounting

        if self.steps == 0:
            return dp_accounting.NoOpDpEvent()
        return dp_accounting.SelfComposedDpEvent(
            dp_accounting.GaussianDpEvent(self.noise_multiplier), self.steps
        )

    def step_deviation(self) -> float:
        """1 / sigma, the standard deviation of the Gaussian mechanism's privacy loss."""
        return 1.0 / self.noise_multiplier

    def step_range(self) -> float:
        """The largest loss of one step, but for draws beyond `_FAR` deviations of the noise."""
        return _largest_loss(1.0, self.noise_multiplier)


@dataclass(frozen=True, kw_only=True)
class HistogramQuery(_GaussianQuery):
    """Counts of `classes` classes with Gaussian noise, `steps` times (planned once): a side query.

    Every unit adds a vector of Euclidean norm at most 1 to the counts, one count for an image of one class,
    and `noise_multiplier` is the noise's standard deviation. Two such vectors are at most 2 apart, which is
    what the accountant takes where a unit's images may be replaced by others. One-hot vectors are at most
    sqrt(2) apart; that is not used, as the images of one unit may be of several classes.
    Raises `ParameterError` for numbers out of range.
    """

    name: str = "histogram"
    steps: int = 1
    classes: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        _require_own_name(self)
        whole(0, steps=self.steps)
        whole(1, classes=self.classes)
        positive(noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, kw_only=True)
class TeacherQuery(_GaussianQuery):
    """Sums of which a classifier of `classes` classes is made, `steps` times (planned once).

    Every unit adds a vector of Euclidean norm at most 1: products of its `dimensions` public features and one
    constant, and those features again in the place of its class; or, with `clusters`, a part of 1 in the
    place of each image's cluster and class. `noise_multiplier` is the standard deviation of the noise on each
    number. Under `replace` two such vectors are taken to be 2 apart, as in a histogram.
    Raises `ParameterError` for numbers out of range.
    """

    name: str = "teacher"
    steps: int = 1
    classes: int
    dimensions: int
    noise_multiplier: float
    clusters: int | None = None

    def __post_init__(self) -> None:
        _require_own_name(self)
        whole(0, steps=self.steps)
        whole(1, classes=self.classes, dimensions=self.dimensions)
        if self.clusters is not None:
            whole(1, clusters=self.clusters)
        positive(noise_multiplier=self.noise_multiplier)

    def to_dict(self) -> dict[str, Any]:
        """As for the other queries; without clusters as it was before there were any."""
        found = super().to_dict()
        return found if self.clusters is not None else {k: v for k, v in found.items() if k != "clusters"}


@dataclass(frozen=True, kw_only=True)
class MomentsQuery(_GaussianQuery):
    """Products of coarse numbers of images for each of `classes` classes, `steps` times (planned once).

    Every unit adds a vector of Euclidean norm at most 1: products of `dimensions` numbers and one constant,
    in the place of its class. `noise_multiplier` is the standard deviation of the noise on each number. Under
    `replace` two such vectors are taken to be 2 apart, as in a histogram.
    Raises `ParameterError` for numbers out of range.
    """

    name: str = "moments"
    steps: int = 1
    classes: int
    dimensions: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        _require_own_name(self)
        whole(0, steps=self.steps)
        whole(1, classes=self.classes, dimensions=self.dimensions)
        positive(noise_multiplier=self.noise_multiplier)


COUNT: Final = "count"
AnyRecord = GaussianMechanism | HistogramQuery | TeacherQuery | MomentsQuery
RECORDS: Final[dict[str, type[AnyRecord]]] = {
    "dpsgd": GaussianMechanism,
    "pe": GaussianMechanism,
    COUNT: GaussianMechanism,
    "saliency": GaussianMechanism,
    "histogram": HistogramQuery,
    "teacher": TeacherQuery,
    "moments": MomentsQuery,
}
SIDE_QUERIES: Final = ("histogram", "saliency", "teacher", "moments")


def _require_own_name(record: AnyRecord) -> None:
    """Raises `ParameterError` for a name of another kind: what was written could not be read back."""
    if RECORDS.get(record.name) is not type(record):
        own = [name for name, kind in RECORDS.items() if kind is type(record)]
        raise ParameterError(
            f"{record.name!r} is no {type(record).__name__}", hint=f"its names are {', '.join(own)}"
        )


def record_from_dict(document: Mapping[str, Any]) -> AnyRecord:
    """The record that `to_dict` wrote, picked by its `name`; fields of later versions are ignored.

    Raises `ParameterError` for an unknown name, a missing field, a value of the wrong type or range.
    """
    name = document.get("name")
    if name not in RECORDS:
        raise unknown_name("mechanism", str(name), RECORDS)
    kind = RECORDS[str(name)]
    known = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{key: value for key, value in document.items() if key in known})
    except TypeError as error:
        raise ParameterError(f"not a {name} mechanism: {error}") from error


def training_record(document: Mapping[str, Any]) -> GaussianMechanism:
    """`record_from_dict` where only the mechanism that trains will do. Raises `ParameterError`."""
    record = record_from_dict(document)
    if not isinstance(record, GaussianMechanism) or record.name in SIDE_QUERIES:
        raise ParameterError(f"expected a mechanism that trains, got the side query {record.name!r}")
    return record


def check_quantile(clipping: str, numbers: Mapping[str, float | None]) -> None:
    """Raises `ParameterError` unless the numbers of adaptive clipping are there with it, in range, and not
    without it."""
    for name, value in numbers.items():
        if clipping != "adaptive" and value is not None:
            raise ParameterError(
                f"{name} has no effect with clipping {clipping!r}", hint="leave it out, or clip 'adaptive'"
            )
        if clipping == "adaptive":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ParameterError(
                    f"expected {name} to be a number with clipping 'adaptive', got {value!r}"
                )
            positive(hint=None, **{name: value})
            if name == "target_quantile" and value >= 1:
                raise ParameterError(f"expected target_quantile in (0, 1), got {value}")


def whole(low: int, *, hint: str | None = None, **values: int) -> None:
    """Raises `ParameterError` unless every value is an integer >= `low` (a bool is not one)."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ParameterError(f"expected {name} to be an integer >= {low}, got {value!r}", hint=hint)
