"""Who makes which part of the images: one process all of them, several between them.

Guarantees that the first process ends with every part there, though the others may have died; that no part is
waited for but one that a living process is making; and that what a part holds does not depend on who makes
it. May import the standard library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from dp_diffusers.drawing.image_parts import Parts
from dp_diffusers.processes.ranks import Ranks

PAUSE: Final = 0.2  # seconds between two looks at what others are making
Draw = Callable[[range], np.ndarray]


def make_share(parts: Parts, draw: Draw, ranks: Ranks, told: Callable[[], Any] = lambda: None) -> None:
    """Makes every part that is missing and that no other process is making, this rank's own first.

    draw: uint8 `[n, H, W, C]` images of a range of numbers. told: called after each part.
    """
    for number in _order(len(parts), ranks):
        if _made(parts, number, draw):
            told()


def make_rest(parts: Parts, draw: Draw, told: Callable[[], Any] = lambda: None) -> None:
    """Waits for what other processes are making, and makes it where they died."""
    while missing := parts.missing():
        made = 0
        for number in missing:
            if _made(parts, number, draw):
                made += 1
                told()
        if not made:
            time.sleep(PAUSE)
            told()


def _made(parts: Parts, number: int, draw: Draw) -> bool:
    """Makes one part, if it is missing and free; whether it did."""
    if parts.has(number):
        return False
    with parts.claimed(number) as free:
        if not free or parts.has(number):  # someone may have finished it since
            return False
        parts.add(number, draw(parts.images_of(number)))
        return True


def _order(count: int, ranks: Ranks) -> Iterator[int]:
    """Every part: those of this rank, then those of the next one, and so on."""
    for turn in range(ranks.count):
        yield from range((ranks.rank + turn) % ranks.count, count, ranks.count)
