"""A commented recipe to start from.

Guarantees that it validates as written and that each comment is the key's own description.
May import pydantic and PyYAML; the images are not opened. The keys are those of `recipe.sections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dp_diffusers.data.sources import default_label, kind_of
from dp_diffusers.errors import DataError, InputError
from dp_diffusers.recipe import Recipe

HEAD = "# A private fine-tuning: `dp-diffusers plan {name}` says what it costs.\n"
# The keys that one changes first; the others are listed as comments with their defaults.
WRITTEN = {
    "base",
    "data.path",
    "data.label",
    "budget.epsilon",
    "budget.unit",
    "mechanism.population",
    "mechanism.steps",
    "mechanism.expected_units",
    "strategy.rank",
    "training.noise_draws",
    "training.learning_rate",
    "generation.images",
}


def write_starter(path: Path, images: Path, *, population: int, base: str, epsilon: float) -> None:
    """Writes the recipe. Raises: `InputError` if the file exists; `RecipeError` for numbers out of range."""
    if not images.exists():
        raise DataError(
            f"images not found: {images}", hint="give a folder, a parquet file or a manifest (.csv, .tsv)"
        )
    if path.exists():
        raise InputError(f"{path} exists already", hint="give another --out")
    if not path.parent.is_dir():
        raise InputError(f"folder not found: {path.parent}", hint="make it, or give another --out")
    recipe = _recipe(path, images, population=population, base=base, epsilon=epsilon)
    path.write_text(HEAD.format(name=path.name) + "\n".join(_section(recipe, "")) + "\n", encoding="utf-8")


def _recipe(path: Path, images: Path, *, population: int, base: str, epsilon: float) -> Recipe:
    """The recipe before it is written, checked."""
    from dp_diffusers.recipe.checks import cross_checks
    from dp_diffusers.recipe.file import RecipeSource, validate

    kind = kind_of(images)
    label = default_label(kind)
    if kind == "folder" and not any(item.is_dir() for item in images.iterdir()):
        label = None
    # every DICOM file says whose it is
    unit = {"unit": "PatientID"} if kind == "dicom" else {}
    value: dict[str, Any] = {
        "base": base,
        "data": {"path": _relative(images, path.parent), "label": label},
        "budget": {"epsilon": epsilon, **unit},
        "mechanism": {"population": population},
    }
    source = RecipeSource(path=path, value=value)
    return validate(Recipe, source, cross_checks(value))


def _relative(images: Path, folder: Path) -> str:
    try:
        return str(images.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(images.resolve())


def _section(model: BaseModel, prefix: str) -> Iterator[str]:
    """The lines of a section: what to look at first as keys, the rest as comments."""
    indent = "  " if prefix else ""
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel) and not prefix:
            yield f"\n{name}:"
            yield from _section(value, f"{name}.")
            continue
        plain = value.model_dump() if isinstance(value, BaseModel) else value
        text = (
            yaml.safe_dump(plain, default_flow_style=True, sort_keys=False)
            .removesuffix("\n")
            .removesuffix("\n...")
        )
        mark = "" if prefix + name in WRITTEN else "# "
        yield f"{indent}{mark}{name}: {text}".ljust(44) + f"  # {info.description}"
