"""Images that belong to several people: which of them are used, so that each person is in one unit only.

Guarantees: no person is in two kept sets, no set that was left out could be added, and the choice depends on
who is on which image alone, never on pixels, labels or the order of rows. May import numpy. Sources: Ganesh
et al., *It's My Data Too* (2025, arXiv 2503.03622) for one public, fixed graph of owners; Halldórsson,
*Approximations of Weighted Independent Set and Hereditary Subset Problems* (2000) for the greedy choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, repr=False)
class Owners:
    """Which of a source's `N` images are used, and the unit of each of those.

    kept: bool `[N]`. owner: int64 `[kept]`, dense. multi_owner: an image may have several owners, so a unit
    is a set of people.
    """

    kept: np.ndarray
    owner: np.ndarray
    unit_count: int
    multi_owner: bool = False


def owners_of(units: Sequence[object] | None, count: int) -> Owners:
    """The units of `count` images. `units`: an id per image, a tuple of ids per image, or None for images.

    Units of one id each are numbered as they come; sets of people as they are chosen. Which of the two it is
    depends on the type of the ids, never on whether somebody shares an image: that would be one row's to say.
    """
    if units is None:
        return _all_kept(np.arange(count, dtype=np.int64), count)
    sets = [unit for unit in units if isinstance(unit, tuple)]
    if not sets:
        numbers: dict[object, int] = {}
        owner = [numbers.setdefault(unit, len(numbers)) for unit in units]
        return _all_kept(np.asarray(owner, np.int64), len(numbers))
    numbers = {people: number for number, people in enumerate(disjoint_sets(sets))}
    found = np.array([numbers.get(people, -1) for people in sets], np.int64)
    return Owners(kept=found >= 0, owner=found[found >= 0], unit_count=len(numbers), multi_owner=True)


def disjoint_sets(owners: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Distinct owner sets of which no two share a person, in the order in which they are chosen.

    owners: per image its people, distinct and sorted. Next comes the set with most images per square root of
    the number of its people, the first in the order of ids among equals. The best choice keeps at most
    min(sqrt(people in all), people in the largest set) times as many images.
    """
    images = Counter(owners)
    taken: set[Any] = set()
    chosen = []
    for people in sorted(images, key=lambda people: (-images[people] / sqrt(len(people)), people)):
        if taken.isdisjoint(people):
            taken.update(people)
            chosen.append(people)
    return chosen


def ownership_record(
    owner: np.ndarray, dropped: np.ndarray, *, population: int | None = None
) -> dict[str, Any]:
    """What of the data takes no part, for the run's private folder: rows and numbers of units, no ids.

    owner: int64 `[N]`, the unit of each image used. dropped: the source's rows that are not. population: the
    number of slots, where units beyond it never take part; None where all do. Rows are numbered from 0: those
    of the parquet files in the order of their names, or the images of a folder in the order of theirs.
    """
    units = int(owner.max(initial=-1)) + 1
    slots = units if population is None else population
    rows = np.delete(np.arange(len(owner) + len(dropped)), dropped)
    return {
        "images": len(rows) + len(dropped),
        "units": units,
        "dropped_images": len(dropped),
        "dropped_rows": dropped.tolist(),
        "surplus_units": list(range(slots, units)),
        "surplus_rows": rows[owner >= slots].tolist(),
        "empty_slots": max(slots - units, 0),
    }


def _all_kept(owner: np.ndarray, units: int) -> Owners:
    return Owners(kept=np.ones(len(owner), bool), owner=owner, unit_count=units)
