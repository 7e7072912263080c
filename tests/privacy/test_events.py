"""Records of mechanisms: in range, readable by later versions, and the source of the accountant's event."""

from __future__ import annotations

import dp_accounting
import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.events import GaussianMechanism, record_from_dict

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
        ("max_units", 10),
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
