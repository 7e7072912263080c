"""Ratios and intervals of engines whose times are known, on a clock of the test's own."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from dp_diffusers.benching import measuring
from dp_diffusers.benching.measuring import geometric_mean, interleaved, interval


@pytest.fixture(autouse=True)
def no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected here: the tests of a whole suite leave much behind."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class Clock:
    """Time that passes only where a step says so; `slow` stretches the steps of a whole round."""

    def __init__(self, *, slow: float = 0.0) -> None:
        self.now, self.slow, self.order = 0.0, slow, []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, seconds: float, *, first: float = 0.0) -> Callable[[int], None]:
        def run(number: int) -> None:
            self.order.append((number, name))
            self.now += seconds * (1 + self.slow * number) + (first if number == 0 else 0.0)

        return run


def test_ratios_are_those_of_the_same_round() -> None:
    clock = Clock(slow=0.5)  # a machine that gets slower and slower
    steps = {"plain": clock.step("plain", 2.0, first=100.0), "ours": clock.step("ours", 2.1)}
    times = interleaved(steps, 6, clock=clock)
    assert times.ratios("ours", "plain") == pytest.approx([1.05] * 6)
    assert times.ratios("plain", "plain") == [1.0] * 6
    assert len(times.seconds["plain"]) == 6
    assert max(times.seconds["plain"]) < 100  # the round that warms up is dropped
    assert gc.isenabled()


def test_the_order_turns_with_the_rounds() -> None:
    clock = Clock()
    interleaved({name: clock.step(name, 1.0) for name in "abc"}, 2, clock=clock)
    orders = ["".join(name for number, name in clock.order if number == r) for r in range(3)]
    assert orders == ["abc", "bca", "cab"]


@pytest.mark.parametrize("fails_at", [0, 3])
def test_an_engine_that_raises_is_left_out_with_its_reason(fails_at: int) -> None:
    clock, called = Clock(), []

    def fails(number: int) -> None:
        called.append(number)
        if number == fails_at:
            raise NotImplementedError("no rule for this layer\nand more")

    times = interleaved({"plain": clock.step("plain", 1.0), "other": fails}, 5, clock=clock)
    assert times.refused == {"other": "no rule for this layer"}
    assert list(times.seconds) == ["plain"]
    assert called == list(range(fails_at + 1))
    assert len(times.seconds["plain"]) == 5


@pytest.mark.parametrize(
    ("count", "place", "confidence"), [(5, 0, 0.9375), (6, 0, 0.96875), (9, 1, 0.9609375), (20, 5, 0.9586)]
)
def test_intervals_are_order_statistics(count: int, place: int, confidence: float) -> None:
    found = interval(list(range(count)))
    assert (found.low, found.high) == (place, count - 1 - place)
    assert found.median == (count - 1) / 2
    assert found.confidence == pytest.approx(confidence, abs=1e-4)


def test_intervals_hold_the_median_as_often_as_they_say() -> None:
    """1,000 intervals of 9 values with a true median of 1: within 5 standard deviations of 96.1 %."""
    values = np.random.default_rng(0).exponential(1 / np.log(2), (1000, 9))
    found = [interval(list(row)) for row in values]
    rate = np.mean([one.low <= 1.0 <= one.high for one in found])
    stated = found[0].confidence
    assert abs(rate - stated) < 5 * np.sqrt(stated * (1 - stated) / len(found))


def test_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


@pytest.mark.planted
def test_planted_times_one_engine_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds of one engine, then all of the next, on a machine that gets slower: the ratio is wrong."""
    clock = Clock()

    def slower(seconds: float) -> Callable[[int], None]:
        def run(number: int) -> None:
            clock.now += seconds * (1 + 0.01 * clock.now)

        return run

    alone = [interleaved({"x": slower(s)}, 6, clock=clock).seconds["x"] for s in (2.0, 2.1)]
    assert measuring.interval([b / a for a, b in zip(*alone)]).median > 1.1
