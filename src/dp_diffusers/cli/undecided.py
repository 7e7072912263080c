"""What a recipe leaves open: labels for a base with classes, names for labels, and how names meet the base's.

Guarantees that only the recipe and the base's own small files are read, never the private images. May import
the standard library at the top; no torch. What is refused, and why: `class_numbers`, `data.labels`,
`data.assembly`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe

MANIFESTS = (".csv", ".tsv")  # tables without types: their text is refused whatever the base's classes are


def undecided(recipe: Recipe) -> Iterator[str]:
    """A line for each open question, each with the key that answers it."""
    from dp_diffusers.recipe.queries import classes_of_base

    base = Path(recipe.base)
    count = 0 if (base / "text_encoder").exists() else classes_of_base(base)
    if recipe.data.label is None:
        if count:
            yield (
                f"data.label is null and base has {count} classes: training refuses images without labels; "
                "set data.label to a column, to folder (class folders) or, of DICOM files, to a keyword such "
                "as BodyPartExamined"
            )
    elif recipe.data.classes is None and _needs_names(recipe, count):
        order = f", in the order of the base's {count} classes" if count else ""
        yield f"class names are not declared: training refuses text labels; set data.classes{order}"
    elif count and recipe.data.classes is not None and recipe.data.base_classes is None:
        yield from _meeting(recipe.data.classes, base)


def _meeting(own: Sequence[str], base: Path) -> Iterator[str]:
    """How declared classes meet those of a base with names, unless each has the name of one."""
    from dp_diffusers.classes.base_classes import by_position
    from dp_diffusers.recipe.queries import classes_of_base, names_of_base

    names, count = names_of_base(base) or [], classes_of_base(base)
    unknown = [name for name in own if name not in names]
    if len(unknown) not in (0, len(own)):
        yield (
            f"the base has some of data.classes but not {unknown[0]!r}: training refuses that; "
            "set data.base_classes"
        )
    elif len(own) > count:
        yield f"data.classes are {len(own)} and the base has {count} classes: training refuses that"
    elif unknown and names:
        yield f"{by_position(own, names)}; data.base_classes says otherwise"


def _needs_names(recipe: Recipe, count: int) -> bool:
    """Whether labels in words would be refused without `data.classes`."""
    from dp_diffusers.data.caption_template import needs_label
    from dp_diffusers.recipe.queries import names_of_base

    if Path(recipe.data.path).suffix.lower() in MANIFESTS or needs_label(recipe.data.caption or ""):
        return True
    return bool(count) and names_of_base(Path(recipe.base)) is None
