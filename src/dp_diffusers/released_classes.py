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
    `proportions`: each class's part of the units, from the run's noisy class histogram; None without one.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...] | None = None
    declared: bool = False
    proportions: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The field `classes` of a certificate; `proportions` only where the run released them."""
        names = None if self.names is None else list(self.names)
        document = {**asdict(self), "labels": list(self.labels), "names": names}
        released = document.pop("proportions")
        return document if released is None else {**document, "proportions": list(released)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ReleasedClasses:
        """Reads what `to_dict` gave."""
        names, released = document["names"], document.get("proportions")
        return cls(
            labels=tuple(document["labels"]),
            names=None if names is None else tuple(names),
            declared=document["declared"],
            proportions=None if released is None else tuple(released),
        )


def declared_names(settings: Mapping[str, Any]) -> list[str] | None:
    """The class names of a resolved recipe, or of the settings of `finetune`: never found in the data."""
    return (settings.get("data") or {}).get("classes") or settings.get("classes")


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
