"""Which classes of two sets of images are the same: by name, or by number where one set has no names.

Guarantees that two sets which both name their classes are never matched by position, that a name of several
classes matches none of them, and that a match by number is said. May import the standard library.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from dp_diffusers.errors import DataError

SHOWN: Final = 10  # classes


def matched(own: Sequence[str], names: Sequence[str], called: str) -> tuple[list[int], str | None]:
    """The place in `names` of each class of `own`, -1 for none; and what to say of a match by number.

    A set without names, or with whole numbers for names, has numbers alone: these meet the numbers, or the
    places, of the other set. called: what the set of `own` is, in an error or a note.
    Raises `DataError` where both sets have names and share none, or share one that several classes have.
    """
    if shared := set(own) & set(names):
        _require_one_of_each(own, names, shared, called)
        places = {name: place for place, name in enumerate(names)}
        return [places.get(name, -1) for name in own], None
    if not (_numbers_alone(own) or _numbers_alone(names)):
        raise DataError(
            f"{called}: no class has the name of a synthetic class",
            hint=f"classes of {called}: {listed(own)}; synthetic classes: {listed(names)}; name them alike",
        )
    place_of = {number: place for place, number in enumerate(_numbers(names))}
    found = [place_of.get(number, -1) for number in _numbers(own)]
    pairs = [f"{name} is {names[place]}" for name, place in zip(own, found) if place >= 0]
    return found, f"{called}: classes matched by number: {listed(pairs)}" if pairs else None


def _require_one_of_each(own: Sequence[str], names: Sequence[str], shared: set[str], called: str) -> None:
    counts = Counter(own) | Counter(names)  # the larger of the two
    twice = next((name for name in names if name in shared and counts[name] > 1), None)
    if twice is not None:
        raise DataError(
            f"{called}: several classes are called {twice!r} in one of the sets that are compared",
            hint="give each class a name of its own, such as its number after the name",
        )


def listed(names: Sequence[str]) -> str:
    """The first few, with an ellipsis for the others."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _numbers_alone(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[0-9]{1,9}", name) for name in names)


def _numbers(names: Sequence[str]) -> list[int]:
    """What numbers for names say, else places."""
    return [int(name) for name in names] if _numbers_alone(names) else list(range(len(names)))
