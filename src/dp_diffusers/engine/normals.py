"""Normal numbers from uniform bits, by the transform of Box and Muller: in float64 for noise, in float32 for
images.

Guarantees: a pair of values is a function of its own two words alone, whatever stands beside it, and always
finite; in float64 it is exact to 1e-15 of its radius. May import numpy only. Source: Box & Muller (1958);
cosine and sine from the tangent of half the angle (Weierstrass), for one such call costs a tenth of two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TO_UNIT = 2.0**-53  # a word without its last eleven bits, times this, is uniform in [0, 1)


def unit_interval(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform in [0, 1) with 53 random bits, of the shape of `words`."""
    uniforms: NDArray[np.float64] = _whole(words).astype(np.float64) * _TO_UNIT
    return uniforms


def add_normals(words: NDArray[np.uint64], total: NDArray[np.float64]) -> None:
    """Adds a standard normal number to each of `total [n]`, from `words [n]`; n is even.

    With u and v of two neighbouring words, t = tan(pi v) and r = sqrt(-2 log(1 - u)), the two numbers are
    r (1 - t^2) / (1 + t^2) and r 2t / (1 + t^2): radius r, angle 2 pi v. 1 - u lies in (0, 1], so that the
    logarithm is finite; no float is pi/2, so that t is, and t^2 stays below 1e34.
    """
    whole = _whole(words)
    radius = np.multiply(whole[0::2], -_TO_UNIT)
    radius += 1.0
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    tangent = np.multiply(whole[1::2], np.pi * _TO_UNIT)
    np.tan(tangent, out=tangent)
    square = tangent * tangent
    shrunk = np.divide(radius, square + 1.0, out=radius)
    tangent *= shrunk
    tangent += tangent
    square *= shrunk
    total[0::2] += np.subtract(shrunk, square, out=square)
    total[1::2] += tangent


def normal_float32(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Standard normal, from `words [U, n]`, n even; (w + 1/2) / 2^32 lies in (0, 1], also rounded."""
    scale = np.float32(2.0**-32)
    radius = np.sqrt(np.float32(-2.0) * np.log((words[:, 0::2].astype(np.float32) + np.float32(0.5)) * scale))
    angle = words[:, 1::2].astype(np.float32) * np.float32(2.0 * np.pi * 2.0**-32)
    values = np.empty(words.shape, np.float32)
    values[:, 0::2], values[:, 1::2] = radius * np.cos(angle), radius * np.sin(angle)
    return values


def _whole(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The first 53 bits of each word."""
    whole: NDArray[np.uint64] = words >> np.uint64(11)
    return whole
