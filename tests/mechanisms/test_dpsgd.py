"""The mechanisms a recipe can name: their sizes, their records, and the engine's parts they hand out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms import MECHANISMS, mechanism_class
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.none import NonPrivate

SIZES = {"steps": 4, "expected_units": 5, "population": 10}


def test_table():
    assert {name: mechanism_class(name).name for name in MECHANISMS} == {name: name for name in MECHANISMS}
    assert {"dpsgd", "none"} <= set(MECHANISMS)
    with pytest.raises(ParameterError, match="dpsdg") as caught:
        mechanism_class("dpsdg")
    assert "dpsgd" in caught.value.hint


@pytest.mark.parametrize("kind", [DPSGD, NonPrivate])
@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("steps", 1.0), ("expected_units", 0), ("expected_units", 11), ("population", -3)],
)
def test_sizes_are_checked(kind, field, value):
    with pytest.raises(ParameterError):
        kind(**{**SIZES, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip_norm", 0.0),
        ("clip_norm", math.inf),
        ("clip_norm", math.nan),
        ("clip_norm", "1"),
        ("clip_norm", 1e-46),
        ("clip_norm", 1e39),
        ("clipping", "automatik"),
        ("target_quantile", 0.5),
        ("max_units", 4),
        ("max_units", 10),
        ("max_units", 7.0),
    ],
)
def test_clipping_is_checked(field, value):
    with pytest.raises(ParameterError, match=field.split("_")[0]):
        DPSGD(**{**SIZES, field: value})


def test_record_is_the_mechanism():
    record = DPSGD(**SIZES, clip_norm=2).record(3.0)
    assert (record.steps, record.sampling_probability, record.clip_norm) == (4, 0.5, 2.0)
    assert DPSGD(**SIZES).record(3.0, 2).steps == 2
    assert NonPrivate(**SIZES).record(0.0) is None


def test_a_limit_makes_another_sampler():
    pytest.importorskip("torch")
    from dp_diffusers.engine.randomness import RunKeys

    limited = DPSGD(**SIZES, max_units=7)
    assert limited.record(3.0).max_units == 7
    sampler = limited.sampler(10, RunKeys.for_tests(1))
    assert repr(sampler) == "TruncatedPoissonSampler(probability=0.5, max_units=7)"
    assert max(len(sampler.units(step)) for step in range(200)) == 7


@pytest.mark.parametrize("kind", [DPSGD, NonPrivate])
def test_engine_parts(kind):
    torch = pytest.importorskip("torch")
    from dp_diffusers.engine.randomness import RunKeys

    mechanism, keys = kind(**SIZES), RunKeys.for_tests(1)
    units = mechanism.sampler(10, keys).units(0)
    assert set(units) <= set(range(10))
    layer = torch.nn.Linear(2, 1)
    box = mechanism.private_gradient(layer, keys, 1.5, "plan")
    owner = torch.tensor([0, 1])
    box.accumulate(layer(torch.ones(2, 2)).square().flatten(), owner, torch.ones(2))
    if mechanism.not_private:
        sums = box.release(0, None)
        assert [tuple(total.shape) for total in sums] == [(1, 2), (1,)]


def test_guarantee_the_slots_of_a_limited_step_are_the_declared_population():
    limited = DPSGD(steps=4, expected_units=50, population=100, max_units=55)
    few, full, surplus = (limited.sampler(units, RunKeys.for_tests(1)) for units in (60, 100, 150))
    for step in range(50):
        whole = full.units(step)
        assert np.array_equal(few.units(step), whole[whole < 60]), "empty slots come, and count"
        assert np.array_equal(surplus.units(step), whole), "surplus units never take part"
