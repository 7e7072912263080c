"""Keys that go to the other processes of one training: every draw is the same, and none of them is noise."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.engine.randomness import HANDED_OVER, RunKeys
from dp_diffusers.engine.sampling import PoissonSampler
from dp_diffusers.errors import GuaranteeError


def handed(keys: RunKeys) -> RunKeys:
    """The keys in another process, as it were."""
    copies: list[bytearray] = []
    keys.hand_over(lambda parcel: copies.append(bytearray(parcel)))
    return RunKeys.received(copies[0])


@pytest.mark.parametrize("made", [RunKeys.fresh, lambda: RunKeys.for_tests(3)])
def test_guarantee_keys_that_were_received_draw_the_same_and_no_noise(made: object) -> None:
    keys: RunKeys = made()  # type: ignore[operator]
    other, units = handed(keys), np.arange(9)
    assert (other.lane, other.not_private) == (keys.lane, keys.not_private)
    for step in (0, 7):
        assert np.array_equal(keys.uniform("a", step, units, 3), other.uniform("a", step, units, 3))
        assert np.array_equal(keys.normal("b", step, units, 3), other.normal("b", step, units, 3))
        samples = [PoissonSampler(500, 0.3, one).units(step) for one in (keys, other)]
        assert np.array_equal(*samples)
    assert len(keys.noise(0, "x", 2)) == 2
    with pytest.raises(GuaranteeError, match="drawn by the process that made its keys"):
        other.noise(0, "x", 2)
    with pytest.raises(GuaranteeError, match="not handed on"):
        handed(other)


def test_guarantee_nothing_is_left_in_a_parcel() -> None:
    keys, seen = RunKeys.fresh(), []
    keys.hand_over(seen.append)
    assert seen[0] == bytes(HANDED_OVER)
    with pytest.raises(GuaranteeError, match="no keys"):
        RunKeys.received(seen[0])
    parcel = bytearray(b"k" * 32 + b"l" * 16 + b"\0")
    RunKeys.received(parcel)
    assert parcel == bytes(HANDED_OVER)


def test_a_parcel_is_zeroed_where_sending_fails() -> None:
    seen: list[bytearray] = []

    def fail(parcel: bytearray) -> None:
        seen.append(parcel)
        raise OSError

    with pytest.raises(OSError):
        RunKeys.fresh().hand_over(fail)
    assert seen[0] == bytes(HANDED_OVER)


@pytest.mark.parametrize("parcel", [b"", b"k" * 48, b"k" * 48 + b"\x02", bytes(49)])
def test_what_is_no_parcel_is_refused(parcel: bytes) -> None:
    with pytest.raises(GuaranteeError, match="no keys"):
        RunKeys.received(bytearray(parcel))
