"""Bounds as short texts that never promise more than the number itself.

Guarantees that an upper bound reads as itself or as a little more, noise as itself or as a little less, and
that a text which is exact stays as it is. May import the standard library.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def rounded_up(value: float, digits: int = 4) -> float:
    """The least number of so many digits that is not below `value`; as it is where not finite."""
    nearest = float(f"{value:.{digits}g}")
    if nearest >= value or not math.isfinite(value):
        return nearest
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value)))


def rounded_down(value: float, digits: int) -> float:
    """The largest number of so many digits that is not above `value`: for noise, of which more is better."""
    nearest = float(f"{value:.{digits}g}")
    if nearest <= value or not math.isfinite(value):
        return nearest
    return float(Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(Decimal(value)))


def rounded_down_text(value: float, digits: int = 4) -> str:
    """`rounded_down` as a text, without zeros at its end."""
    return f"{rounded_down(value, digits):.{digits}g}"


def rounded_up_text(value: float, digits: int = 4) -> str:
    """`rounded_up` as a text, without zeros at its end."""
    return f"{rounded_up(value, digits):.{digits}g}"
