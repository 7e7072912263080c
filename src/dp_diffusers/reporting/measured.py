"""What accuracies were measured with: those of other references or schedules do not compare.

Guarantees that a reference is told by a number of its own in a page, never by its digest, which is of real
images. May import the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

UNKNOWN: Final = "a reference that was not recorded"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """reference: digest of the images that were tested on; None where an earlier version kept none.

    passes: images seen in one training, None where not recorded.
    """

    reference: str | None = field(repr=False)
    passes: int | None
    seeds: int


def measured_of(document: Mapping[str, Any]) -> Measured:
    """That of the document of `evaluate`, with the `reference` that was kept beside it."""
    passes = document.get("passes")
    return Measured(
        reference=None if document["reference"] is None else str(document["reference"]),
        passes=None if passes is None else int(passes),
        seeds=int(document["seeds"]),
    )


def comparable(found: Sequence[Measured]) -> bool:
    """Whether all are known to be of one reference and one schedule; so are none, and one alone."""
    known = all(one.reference is not None for one in found)
    return len(found) < 2 or (known and len({(one.reference, one.passes) for one in found}) == 1)


def in_words(found: Sequence[Measured | None]) -> list[str]:
    """What each was measured on, with references numbered as they are met; "" where there is nothing."""
    numbers: dict[str, int] = {}
    for one in found:
        if one is not None and one.reference is not None:
            numbers.setdefault(one.reference, len(numbers) + 1)
    return ["" if one is None else _words(one, numbers) for one in found]


def _words(one: Measured, numbers: Mapping[str, int]) -> str:
    on = UNKNOWN if one.reference is None else f"reference {numbers[one.reference]}"
    passes = "" if one.passes is None else f", {one.passes} images seen"
    return f"{on}{passes}, {one.seeds} seeds"
