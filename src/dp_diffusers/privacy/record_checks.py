"""What has to hold of the mechanisms that a certificate lists, each by itself and beside the others.

Guarantee: a mechanism that this package could not have run is a problem, however small its epsilon would be.
Imports privacy/ only, never torch. Source: the contract of the certificate; the same is asked
of a plan, by the mechanisms themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.calibration import SMALLEST_NOISE
from dp_diffusers.privacy.events import CLIPPINGS, SIDE_QUERIES, GaussianMechanism, Record
from dp_diffusers.privacy.quantile_noise import gradient_noise

MOST_STEPS: Final = 10**8  # beyond it the accountant takes minutes
CLIP_NORMS: Final = (1e-30, 1e30)  # adaptive clipping goes a millionth or a million times as far in float32
TRAIN: Final = ("dpsgd", "pe")
SALIENCY: Final = "saliency"
_SAME_SAMPLE: Final = ("population", "expected_units", "sampling_probability", "max_units")


def problems_of_record(record: Record, delta: float) -> Iterator[str]:
    """What is wrong with one mechanism, whatever is beside it."""
    if isinstance(record, GaussianMechanism):
        yield from _sampling(record, delta)
        if isinstance(record.clip_norm, bool) or not CLIP_NORMS[0] <= record.clip_norm <= CLIP_NORMS[1]:
            yield f"clip norm {record.clip_norm} is not in [{CLIP_NORMS[0]:g}, {CLIP_NORMS[1]:g}]"
        if record.clipping not in CLIPPINGS:
            yield f"clipping {record.clipping!r} is none of {', '.join(CLIPPINGS)}"
        if record.name == "pe":
            yield from _of_every_unit(record)
        if record.quantile_noise is not None:
            yield from _quantile(record.noise_multiplier, record.quantile_noise)
    if record.noise_multiplier < SMALLEST_NOISE:
        yield f"noise multiplier {record.noise_multiplier:g} is below {SMALLEST_NOISE}"
    if not 0 < record.steps <= MOST_STEPS:
        yield f"steps_charged {record.steps} is not in [1, {MOST_STEPS}]"


def problems_beside(records: Sequence[Record]) -> Iterator[str]:
    """One mechanism trains; a query that samples does so as the steps do, for it asks one step's sample."""
    names = [record.name for record in records]
    training = [record for record in records if record.name in TRAIN]
    if len(set(names)) < len(names) or len(training) != 1 or set(names) - {*TRAIN, *SIDE_QUERIES}:
        yield f"the mechanisms are {', '.join(names)}: expected one that trains, and each once"
        return
    for record in records:
        if record.name == SALIENCY and not _same_sample(record, training[0]):
            yield f"the query {SALIENCY} does not sample as the steps of {training[0].name} do"


def _same_sample(query: Record, steps: Record) -> bool:
    return steps.name == "dpsgd" and all(
        getattr(query, name) == getattr(steps, name) for name in _SAME_SAMPLE
    )


def _of_every_unit(record: GaussianMechanism) -> Iterator[str]:
    """Every unit votes in every iteration, once: there is no sample."""
    whole = record.sampling_probability == 1.0 and record.max_units is None
    if not (whole and record.clip_norm == 1.0 and record.clipping == "flat"):
        yield "pe samples nobody: every unit is in every iteration, with one vote"


def _quantile(noise_multiplier: float, quantile_noise: float) -> Iterator[str]:
    """The count that moves the clip norm leaves something of the accounted noise for the gradient."""
    try:
        gradient_noise(noise_multiplier, quantile_noise)
    except ParameterError as error:
        yield error.message


def _sampling(record: GaussianMechanism, delta: float) -> Iterator[str]:
    ratio = record.expected_units / record.population
    if not math.isclose(record.sampling_probability, ratio, rel_tol=1e-12):
        stated = record.sampling_probability
        yield f"sampling probability {stated} is not expected_units / population = {ratio}"
    if record.max_units is not None and not record.expected_units <= record.max_units < record.population:
        yield f"max_units {record.max_units} is not in [expected_units, population)"
    if not 0 < delta * record.population < 1:
        yield f"delta {delta:g} is not below 1 / population = {1 / record.population:.3g}"
