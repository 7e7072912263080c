"""The classes that a release makes images of: those its training declared, in the numbering of the base.

Guarantees that only public knowledge decides: the base's classes, and names that whoever wrote the recipe
gave; and that no two classes have one name: where the base's do, their numbers tell them apart. May import
`base_classes` only. A training that took its class names from the data declared none, unless a caption tells
them, or a file's schema does: then the certificate says where they are from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dp_diffusers.classes.base_classes import (
    Entry,
    base_numbers,
    declared_entries,
    distinct,
    numbers_of_names,
    require_fitting,
)


@dataclass(frozen=True, kw_only=True)
class ReleasedClasses:
    """`labels`: the base's number of each class; `names`: what each alone is called, or None.

    `declared`: whether the training named its classes; otherwise they are all those of the base.
    `proportions`: each class's part of the units, from the run's noisy class histogram; None without one.
    `prompts`: for a base that takes text, the text of each class. `from_data`: nobody said the
    names; they are those of class folders, which a caption tells, or of the private file's schema.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...] | None = None
    declared: bool = False
    proportions: tuple[float, ...] | None = None
    prompts: tuple[str, ...] | None = None
    from_data: bool = False

    def __post_init__(self) -> None:
        if self.names is not None:
            object.__setattr__(self, "names", distinct(self.names))

    def to_dict(self) -> dict[str, Any]:
        """The field `classes` of a certificate; what comes after `declared` only where there is some."""
        names = None if self.names is None else list(self.names)
        document = {**asdict(self), "labels": list(self.labels), "names": names}
        further = {name: document.pop(name) for name in ("proportions", "prompts")}
        if not self.from_data:
            del document["from_data"]
        return document | {name: list(value) for name, value in further.items() if value is not None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ReleasedClasses:
        """Reads what `to_dict` gave."""
        names, released, prompts = document["names"], document.get("proportions"), document.get("prompts")
        return cls(
            labels=tuple(document["labels"]),
            names=None if names is None else tuple(names),
            declared=document["declared"],
            proportions=None if released is None else tuple(released),
            prompts=None if prompts is None else tuple(prompts),
            from_data=document.get("from_data", False),
        )


def declared_names(settings: Mapping[str, Any]) -> list[str] | None:
    """The class names of a resolved recipe, or of the settings of `finetune`: no label of an image."""
    return (settings.get("data") or {}).get("classes") or settings.get("classes")


def names_for_base(settings: Mapping[str, Any]) -> list[str] | None:
    """The names that a base without any may take: the declared ones, unless they are mapped to its own."""
    return None if declared_entries(settings) else declared_names(settings)


def declared_size(settings: Mapping[str, Any]) -> int | None:
    """Side of the images, where the recipe or the call of `finetune` asks for another than the base's own."""
    return (settings.get("data") or {}).get("size") or settings.get("size")


def released_classes(
    count: int,
    base_names: Sequence[str] | None,
    declared: Sequence[str] | None,
    base_classes: Sequence[Entry] | None = None,
    *,
    from_data: bool = False,
) -> ReleasedClasses | None:
    """The classes of a training on a base with `count` classes called `base_names`; None for one without.

    base_classes: the base's class for each declared name. Without it, names that the base knows mean its
    classes; others are matched by position, as the training's labels are. from_data: the declared names are
    those of a private file, which no error repeats. Raises `ParameterError` where the base classes do not fit
    the base or the declared names, and where the base knows some of the names alone, or several by one.
    """
    if base_classes:
        require_fitting(base_classes, declared)
        labels = base_numbers(base_classes, count, base_names)
        return ReleasedClasses(labels=labels, names=tuple(declared or ()), declared=True)
    if not count:
        return None
    if not declared:
        names = None if base_names is None else tuple(base_names)
        return ReleasedClasses(labels=tuple(range(count)), names=names)
    known = list(base_names or ())
    if set(declared) & set(known):
        labels = numbers_of_names(declared, known, from_data=from_data)
    else:
        labels = tuple(range(len(declared)))
    return ReleasedClasses(labels=labels, names=tuple(declared), declared=True)
