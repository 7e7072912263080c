"""Memory and time of a pass by its number of rows: which sizes to try, and which of them to take.

Guarantees: no size is tried that earlier ones say would not fit, and what is tried costs a second, or a fixed
share of a step. May import the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

PASSES_OF_A_TRIAL: Final = 2
LEAST_SECONDS: Final = 1.0
SHARE_OF_A_STEP: Final = 0.2
"""What trying may take: of the time that the largest step would take."""
ALIKE: Final = 1.03
"""Times of a row that differ by less count as the same: a smaller pass is then as good."""
SPARE: Final = 1.125
"""Rows of a step that are all but surely enough may be so many times those expected, to be one pass."""
ROWS_OF_A_START: Final = 8
"""What a pass costs beside its rows, in rows: on a CPU one or two of a U-Net at 16 x 16, 16 at 8 x 8."""
FARTHEST: Final = 4
"""A pass may be so many times as large as the largest that was tried."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One size: bytes that the pass takes at its peak, seconds that it lasts, and what it costs.

    cost: processor time on a CPU, which other work on the machine leaves as it is.
    """

    rows: int
    bytes: int
    seconds: float
    cost: float

    @property
    def per_row(self) -> float:
        """Seconds of a row."""
        return self.seconds / self.rows

    @property
    def cost_per_row(self) -> float:
        """Of a row."""
        return self.cost / self.rows


@dataclass(kw_only=True)
class Curve:
    """most: rows that a step can need. together: rows of one copy of an image, best not parted. room: bytes
    that may be used. by_time: on a CPU, where a smaller pass can be quicker and a larger one has no use.
    """

    most: int
    together: int
    room: int
    by_time: bool
    found: list[Reading] = field(default_factory=list)
    too_large: bool = False

    def climb(self, trial: Callable[[int], Reading | None]) -> None:
        """Tries growing sizes while they promise something. trial: None where memory ran out."""
        rows, spent = 1, 0.0
        while rows:
            reading = trial(rows)
            if reading is None:
                self.too_large = True
                return
            self.found.append(reading)
            spent += PASSES_OF_A_TRIAL * reading.seconds
            rows = next((size for size in self._sizes() if self._worth(size, spent)), 0)

    def best(self) -> Reading:
        """The size to take, its bytes and seconds as far as they are known; one row where nothing fits."""
        fitting = [reading for reading in self.found if reading.bytes <= self.room] or self.found[:1]
        if not fitting:
            return Reading(rows=1, bytes=self.room, seconds=math.inf, cost=math.inf)
        return _quickest(fitting, self._whole) if self.by_time else self._largest(fitting)

    @property
    def _whole(self) -> int:
        """Rows that are not parted without need."""
        return min(self.together, self.most)

    def _sizes(self) -> Iterator[int]:
        """What may come next: all rows of a unit at once, or twice as many as last, up to what is needed."""
        last = self.found[-1].rows
        if last < self._whole:
            yield self._whole
        if last < self.most:
            yield min(2 * last, self.most)

    def _worth(self, rows: int, spent: float) -> bool:
        last = self.found[-1]
        patience = max(LEAST_SECONDS, SHARE_OF_A_STEP * self.most * last.per_row)
        if spent + PASSES_OF_A_TRIAL * rows * last.per_row > patience or self.bytes_of(rows) > self.room:
            return False
        return not (self.by_time and self._slows())

    def _slows(self) -> bool:
        """Whether neither of the last two sizes cost less a row than all before them."""
        whole = [reading.cost_per_row for reading in self.found if reading.rows >= self._whole]
        return len(whole) > 2 and min(whole[-2:]) > min(whole[:-2]) / ALIKE

    def bytes_of(self, rows: int) -> int:
        """What a pass takes, drawn on from the last two sizes."""
        last = self.found[-1]
        return last.bytes + math.ceil(self._slope(self.found) * (rows - last.rows))

    def _slope(self, found: list[Reading]) -> float:
        """Bytes of one row more: between the last two sizes, or as if a pass took nothing but its rows."""
        last = found[-1]
        if len(found) == 1:
            return last.bytes / last.rows
        before = found[-2]
        return max(0.0, (last.bytes - before.bytes) / (last.rows - before.rows))

    def _largest(self, fitting: list[Reading]) -> Reading:
        last, slope = fitting[-1], self._slope(fitting)
        rows = last.rows
        if not self.too_large:
            more = (self.room - last.bytes) / slope if slope > 0 else math.inf
            rows = int(min(self.most, FARTHEST * last.rows, last.rows + more))
        if rows > self._whole and rows < self.most:
            rows -= rows % self._whole
        rows = max(rows, last.rows)
        grown = last.bytes + math.ceil(slope * (rows - last.rows))
        return Reading(rows=rows, bytes=grown, seconds=last.per_row * rows, cost=last.cost_per_row * rows)


def _quickest(fitting: list[Reading], whole: int) -> Reading:
    """The smallest size whose rows cost as little as any, of those that part no unit if there are some."""
    choice = [reading for reading in fitting if reading.rows >= whole] or fitting
    least = min(reading.cost_per_row for reading in choice)
    return next(reading for reading in choice if reading.cost_per_row <= ALIKE * least)


def rows_needed(plan: Any, training: Any) -> int:
    """Rows that a step has at most, all but surely: five standard deviations above the mean, or the limit.

    Public numbers alone; of a unit that is no image, as many images as a step may use.
    """
    mechanism = plan.mechanism
    expected, rate = mechanism.expected_units, mechanism.sampling_probability
    units = math.ceil(expected + 5 * math.sqrt(expected * (1 - rate)))
    units = min(units, getattr(mechanism, "max_units", None) or mechanism.population, mechanism.population)
    public = training.public.batch_size if training.public else 1
    rows: int = max(units * rows_of_a_unit(plan, training), public)
    return rows


def rows_of_a_unit(plan: Any, training: Any) -> int:
    """Rows that a unit has at most in a step."""
    alone = plan.budget is not None and plan.budget.unit == "image"
    images = 1 if alone else training.max_images_per_unit
    rows: int = training.noise_draws * training.augmentations * images
    return rows


def rows_of_each_pass(plan: Any, training: Any, most: int, processes: int = 1) -> int:
    """One public number of rows for all passes of a step, at most `most`, of which the last is filled up.

    All rows of a step where these are surely little more than are expected. Else small passes waste little
    on filling, half of one a step, and much on starting: the least of both, if a pass starts in the time of
    `ROWS_OF_A_START` rows. Units of several images are taken to use one: how many they have is private.
    Whole units where they fit.
    """
    whole, mechanism = rows_of_a_unit(plan, training), plan.mechanism
    of_an_image = training.noise_draws * training.augmentations
    expected = mechanism.expected_units * of_an_image / processes
    needed = math.ceil(rows_needed(plan, training) / processes / whole) * whole
    if whole == of_an_image and needed <= min(most, SPARE * expected):
        return needed
    rows = min(most, needed, max(whole, math.ceil(math.sqrt(2 * ROWS_OF_A_START * expected))))
    return max(1, rows - rows % whole if rows > whole else rows)
