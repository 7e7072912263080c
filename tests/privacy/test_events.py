"""Records of mechanisms: in range, readable by later versions, and the source of the accountant's event."""

from __future__ import annotations

import math

import dp_accounting
import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.events import GaussianMechanism, HistogramQuery, record_from_dict, training_record

FIELDS = {
    "steps": 3,
    "population": 100,
    "expected_units": 7,
    "sampling_probability": 0.07,
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
}


def test_event_is_the_sampled_gaussian():
    gaussian = dp_accounting.PoissonSampledDpEvent(0.07, dp_accounting.GaussianDpEvent(2.0))
    assert GaussianMechanism(**FIELDS).event() == dp_accounting.SelfComposedDpEvent(gaussian, 3)
    assert GaussianMechanism(**{**FIELDS, "steps": 0}).event() == dp_accounting.NoOpDpEvent()


def test_a_limit_is_the_truncated_event():
    record = GaussianMechanism(**FIELDS, max_units=12)
    step = dp_accounting.TruncatedSubsampledGaussianDpEvent(100, 0.07, 12, 2.0)
    assert record.event() == dp_accounting.SelfComposedDpEvent(step, 3)
    assert (record.sampling, GaussianMechanism(**FIELDS).sampling) == ("truncated", "poisson")
    assert record.deviations_to_limit() == pytest.approx(5 / (7 * 0.93) ** 0.5)
    assert GaussianMechanism(**FIELDS).deviations_to_limit() == math.inf
    whole = {**FIELDS, "expected_units": 100, "sampling_probability": 1.0, "max_units": 60}
    assert GaussianMechanism(**whole).deviations_to_limit() == -math.inf


def test_a_histogram_is_a_gaussian():
    query = HistogramQuery(classes=10, noise_multiplier=20.0)
    gaussian = dp_accounting.GaussianDpEvent(20.0)
    assert query.event() == dp_accounting.SelfComposedDpEvent(gaussian, 1)
    assert query.with_steps(0).event() == dp_accounting.NoOpDpEvent()
    assert record_from_dict(query.to_dict()) == query
    assert query.sampling == "none"
    for wrong in ({"classes": 0}, {"noise_multiplier": 0.0}, {"steps": -1}):
        with pytest.raises(ParameterError):
            record_from_dict({**query.to_dict(), **wrong})


def test_only_a_mechanism_that_trains_will_do():
    record = GaussianMechanism(**FIELDS)
    assert training_record(record.to_dict()) == record
    with pytest.raises(ParameterError, match="side query 'histogram'"):
        training_record(HistogramQuery(classes=2, noise_multiplier=1.0).to_dict())


def test_round_trip_ignores_fields_of_later_versions():
    record = GaussianMechanism(**FIELDS)
    assert record_from_dict({**record.to_dict(), "added_later": 1}) == record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", -1),
        ("steps", 1.5),
        ("steps", True),
        ("population", 0),
        ("expected_units", 0),
        ("sampling_probability", 0.0),
        ("sampling_probability", 1.7),
        ("sampling_probability", float("nan")),
        ("clip_norm", float("inf")),
        ("noise_multiplier", 0.0),
        ("max_units", 0),
        ("max_units", 10**7),
        ("max_units", 2.0),
        ("name", "histogramm"),
    ],
)
def test_refusals(field, value):
    document = {**GaussianMechanism(**FIELDS).to_dict(), field: value}
    with pytest.raises(ParameterError):
        record_from_dict(document)


def test_missing_field_is_refused():
    with pytest.raises(ParameterError, match="not a dpsgd mechanism"):
        record_from_dict({"name": "dpsgd", "steps": 1})
