"""From units to rows: which images of a unit are used in a step, in which variants, and how rows are cut.

Guarantees:
- the rows of a unit are a pure function of (stream, step, unit) and of that unit's own images;
- their weights sum to one, and all rows of a unit are neighbours: it is clipped once however passes are cut;
- a pass holds at most `rows_per_pass` rows, and memory follows the rows, however unequal the units are;
- what fills a pass up belongs to nobody: it has owners of its own, which a box drops, and weight 0.
May import numpy only; the stream is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dp_diffusers.loop.streams import UnitStream, by_width


@dataclass(frozen=True, kw_only=True)
class Rows:
    """R rows of one pass: row r shows image `image[r]` of unit `units[position[r]]`, its row `slot[r]`."""

    units: np.ndarray  # [U] int64
    counts: np.ndarray  # [U] int64, rows in the whole step: a large unit goes on in the next pass
    position: np.ndarray  # [R] int64
    slot: np.ndarray  # [R] int64
    image: np.ndarray  # [R] int64
    variant: np.ndarray  # [R] int64, 0 for the image as it is
    weight: np.ndarray  # [R] float32
    filling: int = 0  # the last so many rows fill the pass up
    group: int = 1  # in groups of so many

    @property
    def slots(self) -> int:
        """Rows of the unit with most rows."""
        return int(self.counts.max())

    def part(self, start: int, stop: int) -> Rows:
        """The rows `start` to `stop`."""
        names = ("position", "slot", "image", "variant", "weight")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in names})

    def filled(self, count: int) -> Rows:
        """`count` rows: after these, rows of the last unit again and again, in groups as large as its own.

        Where every unit has as many rows, and the room is a multiple of it, the pass folds as it did.
        """
        sizes = np.bincount(self.position)
        missing = count - len(self.position)
        if missing <= 0 or len(self.position) == 0:
            return self
        size = int(sizes[-1])
        group = size if np.all(sizes == size) and missing % size == 0 else missing
        last = len(self.position) - size + np.arange(missing) % size
        index = np.concatenate([np.arange(len(self.position)), last])
        names = ("position", "slot", "image", "variant", "weight")
        again = replace(self, **{name: getattr(self, name)[index] for name in names})
        again.weight[-missing:] = 0.0
        return replace(again, filling=missing, group=group)

    @property
    def owner(self) -> np.ndarray:
        """int64 `[R]`: the unit of each row; numbers that no unit has for those that fill the pass up."""
        owner: np.ndarray = self.units[self.position]
        if self.filling:
            owner[-self.filling :] = self.units.max() + 1 + np.arange(self.filling) // self.group
        return owner

    @property
    def complete(self) -> bool:
        """Whether the last rows of its units in this step are here; they come in the order of their slots."""
        last = len(self.slot) - self.filling - 1
        return last < 0 or bool(self.slot[last] + 1 == self.counts[self.position[last]])


class RowTable:
    """The images of each unit, and how many rows a unit may have in a step.

    Args:
        owner: int64 `[N]`, the dense unit id of each image.
        noise_draws: rows per copy of a chosen image.
        max_images: images of one unit used in one step.
        augmentations: copies of a chosen image; the first is the image itself.
        variants: how many variants an image has, itself included; the other copies show one of the others.
    """

    def __init__(
        self,
        owner: np.ndarray,
        *,
        noise_draws: int,
        max_images: int,
        augmentations: int = 1,
        variants: int = 1,
    ) -> None:
        self.noise_draws = noise_draws
        self.max_images = max_images
        self.augmentations = augmentations
        self.variants = variants
        self._images = np.argsort(owner, kind="stable")
        self._counts = np.bincount(owner)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])

    @property
    def unit_count(self) -> int:
        """Number of units that have images."""
        return len(self._counts)

    def sizes(self, units: np.ndarray) -> np.ndarray:
        """int64 `[U]`: how many rows each of the units has in a step."""
        used: np.ndarray = np.minimum(self._counts[units], self.max_images)
        return used * self.augmentations * self.noise_draws

    def passes(self, stream: UnitStream, step: int, units: np.ndarray, rows_per_pass: int) -> Iterator[Rows]:
        """The rows of a step, in passes of at most `rows_per_pass` rows.

        A unit with more rows has consecutive passes to itself, any other lies whole in one pass.
        """
        used = np.minimum(self._counts[units], self.max_images)
        for first, last in _cuts(used * self.augmentations * self.noise_draws, rows_per_pass):
            rows = self._rows(stream, step, units[first:last], used[first:last])
            for start in range(0, len(rows.position), rows_per_pass):
                yield rows.part(start, start + rows_per_pass)

    def _rows(self, stream: UnitStream, step: int, units: np.ndarray, used: np.ndarray) -> Rows:
        copies = used * self.augmentations
        sizes = copies * self.noise_draws
        position = np.repeat(np.arange(len(units)), sizes)
        slot = np.arange(len(position)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        copy = np.repeat(np.cumsum(copies) - copies, sizes) + slot // self.noise_draws
        chosen = self._chosen(stream, step, units, used)[copy // self.augmentations]
        return Rows(
            units=units,
            counts=sizes,
            position=position,
            slot=slot,
            image=self._images[self._starts[units[position]] + chosen],
            variant=self._variants(stream, step, units, copies)[copy],
            weight=(1.0 / sizes[position]).astype(np.float32),
        )

    def _chosen(self, stream: UnitStream, step: int, units: np.ndarray, used: np.ndarray) -> np.ndarray:
        """int64 `[sum(used)]`: for each unit in turn, `used` numbers of its own images, in a secret order."""
        counts = self._counts[units]
        first = np.cumsum(used) - used
        chosen = np.zeros(int(used.sum()), np.int64)
        for members, width in by_width(np.where(counts > 1, counts, 0)):
            column = np.arange(width)
            keys = stream.uniform("image-choice", step, units[members], width)
            keys[column >= counts[members, None]] = 2.0  # what is not there comes last
            order = np.argsort(keys, axis=1, kind="stable")
            taken = column < used[members, None]
            chosen[(first[members, None] + column)[taken]] = order[taken]
        return chosen

    def _variants(self, stream: UnitStream, step: int, units: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """int64 `[sum(copies)]`: for each unit in turn, what its copies show; the first of an image is 0."""
        shown = np.zeros(int(copies.sum()), np.int64)
        if self.augmentations == 1 or self.variants == 1:
            return shown
        first = np.cumsum(copies) - copies
        for members, width in by_width(copies):
            column = np.arange(width)
            draws = stream.uniform("augmentation", step, units[members], width)
            found = 1 + np.floor(draws * (self.variants - 1)).astype(np.int64)
            found[:, :: self.augmentations] = 0
            taken = column < copies[members, None]
            shown[(first[members, None] + column)[taken]] = found[taken]
        return shown


def _cuts(sizes: np.ndarray, rows_per_pass: int) -> Iterator[tuple[int, int]]:
    """Ranges of units with at most `rows_per_pass` rows together, or one unit that has more."""
    bounds = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        spent = bounds[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(bounds, spent + rows_per_pass, side="right")))
        yield first, last
        first = last
