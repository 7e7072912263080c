"""From units to rows: which images of a unit are used in a step, and how rows are cut into passes.

Guarantees:
- the rows of a unit are a pure function of (stream, step, unit) and of that unit's own images;
- their weights sum to one, and all rows of a unit are neighbours: it is clipped once however passes are cut.
May import numpy only; the stream is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dp_diffusers.streams import UnitStream


@dataclass(frozen=True, kw_only=True)
class Rows:
    """R rows of one pass: row r shows image `image[r]` of unit `units[position[r]]`, its row `slot[r]`."""

    units: np.ndarray  # [U] int64
    position: np.ndarray  # [R] int64
    slot: np.ndarray  # [R] int64
    image: np.ndarray  # [R] int64
    weight: np.ndarray  # [R] float32
    slots: int

    @property
    def owner(self) -> np.ndarray:
        """int64 `[R]`: the unit of each row."""
        owner: np.ndarray = self.units[self.position]
        return owner


class RowTable:
    """The images of each unit, and how many rows a unit may have in a step.

    Args:
        owner: int64 `[N]`, the dense unit id of each image.
        noise_draws: rows per chosen image.
        max_images: images of one unit used in one step.
    """

    def __init__(self, owner: np.ndarray, *, noise_draws: int, max_images: int) -> None:
        self.noise_draws = noise_draws
        self.max_images = max_images
        self._images = np.argsort(owner, kind="stable")
        self._counts = np.bincount(owner)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])

    @property
    def unit_count(self) -> int:
        """Number of units that have images."""
        return len(self._counts)

    def passes(self, stream: UnitStream, step: int, units: np.ndarray, rows_per_pass: int) -> Iterator[Rows]:
        """The rows of a step, in passes of at most `rows_per_pass` rows, or one unit's where that is more."""
        if not len(units):
            return
        used = np.minimum(self._counts[units], self.max_images)
        sizes = used * self.noise_draws
        bounds = np.cumsum(sizes)
        first = 0
        while first < len(units):
            spent = bounds[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(bounds, spent + rows_per_pass, side="right")))
            yield self._rows(stream, step, units[first:last], used[first:last])
            first = last

    def _rows(self, stream: UnitStream, step: int, units: np.ndarray, used: np.ndarray) -> Rows:
        sizes = used * self.noise_draws
        position = np.repeat(np.arange(len(units)), sizes)
        slot = np.arange(len(position)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = self._order(stream, step, units)
        chosen = order[position, slot // self.noise_draws]
        return Rows(
            units=units,
            position=position,
            slot=slot,
            image=self._images[self._starts[units[position]] + chosen],
            weight=(1.0 / sizes[position]).astype(np.float32),
            slots=int(sizes.max()),
        )

    def _order(self, stream: UnitStream, step: int, units: np.ndarray) -> np.ndarray:
        """int64 `[U, most images of a unit]`: each unit's own images in a secret order, absent ones last."""
        counts = self._counts[units]
        widest = int(counts.max())
        if widest == 1:
            return np.zeros((len(units), 1), dtype=np.int64)
        keys = stream.uniform("image-choice", step, units, widest)
        keys[np.arange(widest)[None, :] >= counts[:, None]] = 2.0
        return np.argsort(keys, axis=1, kind="stable")
