"""Which synthetic image is nearest to each private one, in a public space of features.

Guarantees:
- the answer for an image is a function of that image and of the synthetic ones alone, bit for bit: features
  are whole numbers, so that sums of their products are exact, and no other image's presence can move a tie;
- an image whose features are not finite votes for nobody; equal distances go to the first.
May import numpy only. A space of features is one function and one line in `FEATURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from dp_diffusers.errors import ParameterError, unknown_name

Features = Callable[[np.ndarray], np.ndarray]
SIDE: Final = 16  # of the picture that `pixels` compares
LARGEST: Final = 2.0**16  # of a feature; with MOST of them, sums of products stay below 2^53
MOST: Final = 2**20
_ROWS: Final = 1024


def pixels(images: np.ndarray) -> np.ndarray:
    """float64 `[N, D]`, whole numbers: uint8 `[N, H, W, C]` as mean grey values of blocks, at most 16 a side.

    Blocks at the right and lower edge are filled up with the edge.
    """
    height, width = images.shape[1:3]
    block = -(-max(height, width) // SIDE)
    padding = [(0, 0), (0, -height % block), (0, -width % block), (0, 0)]
    padded = np.pad(images, padding, mode="edge").astype(np.int64)
    count, tall, wide, channels = padded.shape
    parts = padded.reshape(count, tall // block, block, wide // block, block, channels)
    means = (parts.sum((2, 4)) + block**2 // 2) // block**2
    flat: np.ndarray = means.reshape(count, -1).astype(np.float64)
    return flat


FEATURES: Final[dict[str, Features]] = {"pixels": pixels}


def features_named(name: str) -> Features:
    """The space of features called `name`. Raises `ParameterError` with the nearest known name."""
    if name not in FEATURES:
        raise unknown_name("features", name, FEATURES)
    return FEATURES[name]


def nearest(
    private: np.ndarray,
    synthetic: np.ndarray,
    private_class: np.ndarray | None = None,
    synthetic_class: np.ndarray | None = None,
) -> np.ndarray:
    """int64 `[N]`: the place of the nearest synthetic image of the same class; -1 where there is none.

    private, synthetic: features `[N, D]` and `[S, D]`, rounded to whole numbers here; classes: int64, None
    for one class of all. Raises `ParameterError` for features too many to be added up exactly.
    """
    mine, valid = _whole_numbers(private)
    theirs, usable = _whole_numbers(synthetic)
    ours = np.zeros(len(mine), np.int64) if private_class is None else private_class
    kinds = np.zeros(len(theirs), np.int64) if synthetic_class is None else synthetic_class
    found = np.full(len(mine), -1, np.int64)
    for kind in np.unique(kinds):
        places = np.flatnonzero((kinds == kind) & usable)
        voters = np.flatnonzero((ours == kind) & valid)
        for first in range(0, len(voters) if len(places) else 0, _ROWS):
            some = voters[first : first + _ROWS]
            found[some] = places[_nearest(mine[some], theirs[places])]
    return found


def _nearest(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Squared distances but for what all have in common; argmin takes the first of equals."""
    distances = (theirs**2).sum(1) - 2.0 * (mine @ theirs.T)
    places: np.ndarray = distances.argmin(1)
    return places


def _whole_numbers(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[N, D]` of whole numbers within the limits, and which rows were finite, bool `[N]`."""
    if features.ndim != 2 or features.shape[1] > MOST:
        raise ParameterError(f"expected features [N, D] with D <= {MOST}, got {list(features.shape)}")
    finite = np.isfinite(features).all(1)
    known = np.where(finite[:, None], features, 0.0)
    return np.clip(np.rint(known), -LARGEST, LARGEST).astype(np.float64), finite
