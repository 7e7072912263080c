"""Which of several drawn images are kept: so many, spread as the private units are.

Guarantees that no image is kept twice while there are others to keep, and that the choice is a function of
public and released numbers. May import numpy. Source: systematic sampling with probability proportional to
size (Madow 1949), of post-stratification weights (Holt and Smith 1979).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
STREAM: Final = 0x6B657074  # keeps these draws apart from others of the same seed


def chosen_images(weights: Floats, count: int, seed: int) -> Integers:
    """int64 `[count]`, rising places of images, with chances in proportion to `weights`, float64 `[N]`.

    Where fewer have a weight, all of them are kept, and then some again. Raises `ParameterError` where none
    has.
    """
    places = np.flatnonzero(weights > 0)
    if not len(places):
        raise ParameterError(
            "no image drawn lies where the teacher counted units of a class that was asked for",
            hint="ask for more images, or set generation.candidates to 1",
        )
    rng = np.random.default_rng([STREAM, seed])
    rounds, rest = divmod(count, len(places))
    kept = np.concatenate([np.tile(places, rounds), places[_drawn(weights[places], rest, rng)]])
    return np.sort(kept)


def _drawn(chances: Floats, count: int, rng: np.random.Generator) -> Integers:
    """int64 `[count]` of N > count places, none twice."""
    order = np.lexsort((rng.random(len(chances)), chances))  # images of one cluster are neighbours
    ends = np.cumsum(inclusion(chances[order], count))
    ends[-1] = count  # but for rounding
    crossed = np.floor(ends + rng.random()).astype(np.int64)
    found: Integers = order[np.diff(crossed, prepend=0) > 0]
    return found


def inclusion(chances: Floats, count: int) -> Floats:
    """float64 `[N]`: proportional to these numbers above 0, at most 1, and `count` < N in all."""
    found = np.zeros(len(chances))
    free = np.ones(len(chances), bool)
    while free.any():
        share = chances[free] * (count - (~free).sum()) / chances[free].sum()
        if (share < 1).all():
            found[free] = share
            break
        places = np.flatnonzero(free)[share >= 1]
        found[places], free[places] = 1.0, False
    return found
