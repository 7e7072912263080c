"""Coins of the units: one draw of 80 bits for each, of which 16 are read unless they leave it open.

Guarantees: a unit comes with a chance of at most `probability` and more than `probability` - 2^-80, exactly,
whatever the others do; its draw is a pure function of (key, step, unit). May import numpy and the engine's
randomness. Source: comparison of lazily read random bits, as in Knuth & Yao 1976.

A draw is the whole number coarse * 2^64 + fine, uniform on [0, 2^80), and the unit comes if it is below
floor(probability * 2^80), a product without error since a float holds 53 bits. Only where the coarse bits
are those of the limit (one unit in 65,536) do the fine ones decide.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.engine.randomness import RunKeys, Units

COARSE_BITS: Final = 16
FINE_BITS: Final = 64
DOMAIN: Final = "sampling"


def limit_of(probability: float) -> tuple[int, int]:
    """The smallest draw that does not come, as its coarse and its fine part; rounded down."""
    limit = int(math.ldexp(probability, COARSE_BITS + FINE_BITS))
    return divmod(limit, 1 << FINE_BITS)


def that_come(
    keys: RunKeys, step: int, unit_count: int, probability: float
) -> tuple[Units, NDArray[np.uint16]]:
    """Those of the units 0..unit_count-1 that come, `[U]` in ascending order, and their coarse bits."""
    coarse, fine = limit_of(probability)
    drawn = keys.coarse_bits(DOMAIN, step, unit_count)
    if coarse == 1 << COARSE_BITS:
        return np.arange(unit_count, dtype=np.int64), drawn
    units = np.flatnonzero(drawn <= np.uint16(coarse)).astype(np.int64, copy=False)
    found = drawn[units]
    open_ones = np.flatnonzero(found == coarse)
    late = open_ones[keys.fine_bits(DOMAIN, step, units[open_ones]) >= np.uint64(fine)]
    return np.delete(units, late), np.delete(found, late)


def smallest(keys: RunKeys, step: int, units: Units, coarse: NDArray[np.uint16], count: int) -> Units:
    """The `count` of `units` `[U]` with the smallest draws, in ascending order of their ids.

    coarse: `[U]`, the coarse bits of their draws. Two equal draws are told apart by id, once in 2^80 pairs.
    """
    order = np.lexsort((keys.fine_bits(DOMAIN, step, units), coarse))
    return np.sort(units[order[:count]])
