"""Times of several engines in one process, round by round, and what their ratios say.

Guarantees that the engines of a round run beside each other, in an order that turns with the rounds, so that
a machine which slows down slows all of them; that a ratio is one of two times of the same round; and that an
engine which raises is left out with its reason. May import the standard library alone. Intervals of a median
by order statistics: David & Nagaraja, *Order Statistics* (2003), section 7.1.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Step = Callable[[int], None]
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median and a range that holds the true one with the given probability at least, where that is 95 %.

    With fewer than six values no such range exists: it is then all of them, and `confidence` says how much.
    """

    median: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Times:
    """seconds: by engine, one a round. refused: by engine, why it has no times."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str, to: str) -> list[float]:
        """Of each round."""
        return [a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True)]


def interleaved(
    steps: Mapping[str, Step],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], None] = lambda: None,
) -> Times:
    """`rounds` rounds after one that is dropped. settle: waits until the device is done."""
    alive, times = dict(steps), Times()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds + 1):
            gc.collect()
            for name in _turned(list(alive), number):
                seconds = _timed(alive, name, number, times.refused, clock, settle)
                if seconds is not None and number:
                    times.seconds.setdefault(name, []).append(seconds)
    finally:
        if was_enabled:
            gc.enable()
    for name in times.refused:
        times.seconds.pop(name, None)
    return times


def _turned(names: list[str], number: int) -> list[str]:
    place = number % max(1, len(names))
    return names[place:] + names[:place]


def _timed(
    alive: dict[str, Step],
    name: str,
    number: int,
    refused: dict[str, str],
    clock: Callable[[], float],
    settle: Callable[[], None],
) -> float | None:
    """Seconds of one step; None where the engine raised, which then takes no further part."""
    try:
        settle()
        began = clock()
        alive[name](number)
        settle()
        return clock() - began
    except Exception as error:  # another library's refusal is a result
        refused[name] = reason_of(error)
        del alive[name]
        return None


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def interval(values: Sequence[float]) -> Interval:
    """Median and the narrowest symmetric range of order statistics that covers it in 95 % or more."""
    ordered, count = sorted(values), len(values)
    place = 0
    while 2 * (place + 1) < count and _coverage(count, place + 1) >= CONFIDENCE:
        place += 1
    return Interval(
        median=statistics.median(ordered),
        low=ordered[place],
        high=ordered[count - 1 - place],
        confidence=_coverage(count, place),
    )


def _coverage(count: int, place: int) -> float:
    """Chance that the median lies between the values at `place` from below and from above."""
    outside: float = 2.0 * sum(math.comb(count, below) for below in range(place + 1)) / 2.0**count
    return max(0.0, 1.0 - outside)


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))
