"""The classes that a release makes images of: those its training declared, in the numbering of the base.

Guarantees that only public knowledge decides: the base's classes, and names that whoever wrote the recipe
gave. May import the standard library only. A training that took its class names from the data declared none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ReleasedClasses:
    """`labels`: the base's number of each class; `names`: what each is called, or None.

    `declared`: whether the training named its classes; otherwise they are all those of the base.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...] | None = None
    declared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The field `classes` of a certificate."""
        names = None if self.names is None else list(self.names)
        return {**asdict(self), "labels": list(self.labels), "names": names}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ReleasedClasses:
        """Reads what `to_dict` gave."""
        names = document["names"]
        return cls(
            labels=tuple(document["labels"]),
            names=None if names is None else tuple(names),
            declared=document["declared"],
        )


def released_classes(
    count: int, base_names: Sequence[str] | None, declared: Sequence[str] | None
) -> ReleasedClasses | None:
    """The classes of a training on a base with `count` classes called `base_names`; None for one without.

    Names that the base knows mean its classes; others are matched by position, as the training's labels are.
    """
    if not count:
        return None
    if not declared:
        names = None if base_names is None else tuple(base_names)
        return ReleasedClasses(labels=tuple(range(count)), names=names)
    known = list(base_names or ())
    if set(declared) & set(known):
        labels = tuple(known.index(name) for name in declared)
    else:
        labels = tuple(range(len(declared)))
    return ReleasedClasses(labels=labels, names=tuple(declared), declared=True)
