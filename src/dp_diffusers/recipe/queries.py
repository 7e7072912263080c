"""The side queries that a recipe asks for: a class histogram (`generation.labels: histogram`), which layers
matter most (`strategy.name: sapf`), a classifier (`teacher`), and means and spreads (`warmup`).

Guarantees that the number of classes is a declared one, of the recipe or of the public base, and never found
in the images. May import privacy/ and mechanisms/ inside functions; never torch. Source: the recipe contract.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers.data.caption_template import needs_label
from dp_diffusers.errors import ParameterError

if TYPE_CHECKING:
    from dp_diffusers.mechanisms.dpsgd import DPSGD
    from dp_diffusers.mechanisms.evolution import PE
    from dp_diffusers.privacy.budget import Budget
    from dp_diffusers.privacy.events import Record
    from dp_diffusers.recipe import Recipe


def queries_of(recipe: Recipe, budget: Budget, mechanism: DPSGD | PE) -> tuple[Record, ...]:
    """Records of the side queries. Raises `ParameterError` where nobody has declared the classes."""
    return (
        *_histogram(recipe, budget),
        *_saliency(mechanism, recipe, budget),
        *_teacher(recipe, budget),
        *_moments(recipe, budget),
    )


def _histogram(recipe: Recipe, budget: Budget) -> Iterator[Record]:
    if recipe.generation.labels == "histogram":
        from dp_diffusers.mechanisms.histogram import histogram_query

        yield histogram_query(budget, declared_classes(recipe))


def _teacher(recipe: Recipe, budget: Budget) -> Iterator[Record]:
    settings = recipe.teacher
    if settings is not None:
        from dp_diffusers.mechanisms.teacher import teacher_query

        settings.require_there()
        classes = declared_classes(recipe, "teacher", "leave teacher out")
        yield teacher_query(
            budget,
            classes,
            dimensions=settings.dimensions,
            share=settings.share,
            clusters=settings.clusters,
        )


def _moments(recipe: Recipe, budget: Budget) -> Iterator[Record]:
    settings = recipe.warmup
    if settings is not None:
        from dp_diffusers.mechanisms.moments import moments_query

        classes = 1 if _of_one_kind(recipe) else declared_classes(recipe, "warmup", _ONE_KIND)
        yield moments_query(budget, classes, dimensions=settings.dimensions, share=settings.share)


_ONE_KIND: Final = "data.label to null where all images are of one kind, or leave warmup out"


def _of_one_kind(recipe: Recipe) -> bool:
    """Whether nothing tells kinds of images apart: no label, one text for all, or a base without classes."""
    data, base = recipe.data, Path(recipe.base)
    if data.label is None or (data.caption is not None and not needs_label(data.caption)):
        return True
    plain = base.is_dir() and data.caption is None and not (base / "text_encoder").exists()
    return plain and not classes_of_base(base)


def _saliency(mechanism: DPSGD | PE, recipe: Recipe, budget: Budget) -> Iterator[Record]:
    from dp_diffusers.mechanisms.dpsgd import DPSGD

    if recipe.strategy.name == "sapf" and isinstance(mechanism, DPSGD):
        from dp_diffusers.mechanisms.saliency import saliency_query

        yield saliency_query(budget, mechanism)


def require_base_classes(recipe: Recipe) -> None:
    """Raises `ParameterError` where `data.base_classes` does not fit a base whose folder is here."""
    entries, folder = recipe.data.base_classes, Path(recipe.base)
    if entries is None or not folder.is_dir():  # a training asks the model itself
        return
    from dp_diffusers.classes.base_classes import base_numbers, require_no_texts

    if (folder / "text_encoder").exists():
        require_no_texts(entries)
    base_numbers(entries, classes_of_base(folder), names_of_base(folder))


def declared_classes(
    recipe: Recipe,
    key: str = "generation.labels: histogram",
    otherwise: str = "set generation.labels to uniform",
) -> int:
    """How many classes the recipe, or else the folder of its base, declares; `key` needs them."""
    if recipe.data.classes:
        return len(recipe.data.classes)
    count = classes_of_base(Path(recipe.base))
    if not count:
        raise ParameterError(
            f"{key} needs declared classes, and the base declares none",
            hint=f"set data.classes, or {otherwise}",
        )
    return count


def names_of_base(folder: Path) -> list[str] | None:
    """The class names that a diffusers folder comes with, or None."""
    from dp_diffusers.classes.base_classes import names_of_index

    names = _json(folder / "classes.json")
    named = names_of_index(_json(folder / "model_index.json"))
    return names if isinstance(names, list) else None if named is None else list(named)


def classes_of_base(folder: Path) -> int:
    """Classes of a diffusers folder: its names, or all of its class embeddings but the null class."""
    if (names := names_of_base(folder)) is not None:
        return len(names)
    counted = _setting(folder / "transformer", "num_embeds_ada_norm")  # DiT does not count its null class
    embeddings = _setting(folder / "unet", "num_class_embeds")
    return counted or max(embeddings - 1, 0)


def _setting(component: Path, key: str) -> int:
    """A number of a component's configuration; 0 where it has none."""
    config = _json(component / "config.json")
    value = config.get(key) if isinstance(config, dict) else None
    return value if isinstance(value, int) else 0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
