"""Streams: pure functions of (key, domain, step, unit), and keys that go nowhere."""

from __future__ import annotations

import copy
import os
import pickle
import time

import numpy as np
import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import DPDiffusersError, GuaranteeError, ParameterError

KEYS = RunKeys.for_tests(1)
UNITS = np.array([3, 0, 2**40, 17], np.int64)


@pytest.mark.parametrize("draw", [KEYS.uniform, KEYS.normal])
def test_guarantee_a_units_draws_do_not_depend_on_other_units(draw) -> None:  # type: ignore[no-untyped-def]
    whole = draw("timesteps", 5, UNITS, 7)
    assert np.array_equal(draw("timesteps", 5, UNITS[[2]], 7)[0], whole[2])
    assert np.array_equal(draw("timesteps", 5, UNITS[::-1].copy(), 7)[::-1], whole)
    assert np.array_equal(draw("timesteps", 5, UNITS, 4), whole[:, :4])
    many = np.concatenate([UNITS, np.arange(100, 700)])
    assert np.array_equal(draw("timesteps", 5, many, 7)[:4], whole)


def test_guarantee_bits_of_a_unit_do_not_depend_on_how_many_units_there_are() -> None:
    """Across the border of a block, too."""
    whole = KEYS.coarse_bits("sampling", 1, 2_000_000)
    for count in (10, 2**19 + 3, 10**6):
        assert np.array_equal(KEYS.coarse_bits("sampling", 1, count), whole[:count])
    fine = KEYS.fine_bits("sampling", 1, UNITS)
    assert np.array_equal(KEYS.fine_bits("sampling", 1, UNITS[::-1].copy()), fine[::-1])
    assert np.array_equal(KEYS.fine_bits("sampling", 1, UNITS[[2]]), fine[[2]])


def test_guarantee_domains_steps_units_kinds_and_lanes_differ() -> None:
    one = np.array([0])
    other = RunKeys.for_tests(1, lane=bytes(16))
    streams = [
        KEYS.uniform("a", 0, one, 64)[0],
        KEYS.uniform("b", 0, one, 64)[0],
        KEYS.uniform("a", 1, one, 64)[0],
        KEYS.uniform("a", 0, one + 1, 64)[0],
        (KEYS.coarse_bits("a", 0, 256).view(np.uint64) >> np.uint64(11)) * 2.0**-53,
        (KEYS.fine_bits("a", 0, np.arange(64)) >> np.uint64(11)) * 2.0**-53,
        other.uniform("a", 0, one, 64)[0],
        RunKeys.for_tests(2).uniform("a", 0, one, 64)[0],
    ]
    values = np.concatenate(streams)
    assert len(np.unique(values)) == values.size
    assert not np.array_equal(KEYS.noise(0, "a", 8), KEYS.noise(0, "b", 8))
    assert not np.array_equal(KEYS.noise(0, "a", 8), KEYS.noise(1, "a", 8))


def test_values_are_in_range_and_finite() -> None:
    uniforms = KEYS.uniform("u", 0, np.arange(1000), 100)
    assert uniforms.dtype == np.float64
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    normals = KEYS.normal("n", 0, np.arange(1000), 101)
    assert normals.dtype == np.float32
    assert normals.shape == (1000, 101)
    assert np.isfinite(normals).all()
    assert KEYS.normal("n", 0, np.empty(0, np.int64), 3).shape == (0, 3)
    assert KEYS.noise(0, "n", 0).shape == (0,)
    assert KEYS.coarse_bits("n", 0, 0).shape == (0,)


def test_keys_are_never_shown_pickled_or_copied() -> None:
    fresh = RunKeys.fresh()
    assert not fresh.not_private
    assert KEYS.not_private
    assert fresh._key is not None
    assert fresh._key.hex() not in repr(fresh)
    assert fresh.lane.hex() in repr(fresh)
    for move in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(GuaranteeError, match="cannot be pickled or copied"):
            move(fresh)
    assert RunKeys.fresh().lane != fresh.lane
    assert not hasattr(fresh, "__dict__")


def test_guarantee_a_forked_child_has_no_key() -> None:
    keys = RunKeys.fresh()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"drew"
        try:
            keys.noise(0, "x", 1)
        except GuaranteeError:
            answer = b"refused"
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 16) == b"refused"
    assert keys.noise(0, "x", 1).shape == (1,)


def test_a_step_is_claimed_once() -> None:
    keys = RunKeys.for_tests(9)
    keys.claim(3)
    assert keys.claimed(3)
    with pytest.raises(GuaranteeError, match="step 3 was already released"):
        keys.claim(3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: KEYS.uniform("a", -1, UNITS, 1),
        lambda: KEYS.uniform("a", 0, np.array([-1]), 1),
        lambda: KEYS.normal("a", 0, np.array([0.5]), 1),
        lambda: KEYS.coarse_bits("a", 0, -1),
        lambda: KEYS.fine_bits("a", 0, np.array([-1])),
        lambda: RunKeys(b"short", bytes(16), not_private=True),
    ],
)
def test_bad_input(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ParameterError) as error:
        call()
    assert isinstance(error.value, DPDiffusersError)


def test_draws_are_fast_enough_for_every_step() -> None:
    start = time.process_time()
    KEYS.normal("diffusion noise", 0, np.arange(4096), 784)
    KEYS.coarse_bits("sampling", 0, 1_000_000)
    assert time.process_time() - start < 1.0
