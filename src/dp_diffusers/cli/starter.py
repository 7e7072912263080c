"""A commented recipe to start from.

Guarantees that it validates as written and that each comment is the key's own description.
May import pydantic and PyYAML; the images are not opened. The keys are those of `recipe.sections`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dp_diffusers.data.sources import default_label, is_hub, kind_of
from dp_diffusers.errors import DataError, InputError
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.yaml_lines import dump_in_line

HEAD = "# A private fine-tuning: `dp-diffusers plan {name}` says what it costs.\n"
TAIL = "\n# All other keys and their defaults: `dp-diffusers init --all`, or docs/reference/recipe.md.\n"
# The keys that one changes first, and those that one has to have seen: comments with their defaults.
WRITTEN = {
    "base",
    "data.path",
    "data.label",
    "data.classes",
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
_BLANKS = re.compile(r"^((?:  |  # )(?:population|expected_units):) \d+")
STAND_IN = 60_000  # for an unknown population: validates everything else, and is not written
SEEN = {
    "data.resize",
    "budget.delta",
    "budget.ledger",
    "budget.cap",
    "mechanism.clip_norm",
    "teacher",
    "warmup",
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the recipe says from the start; label, unit and classes None where the kind of images decides.

    images: a path or hf://owner/name[:split]. population: None leaves a blank that `plan` asks for. label: as
    in a recipe, where `null` is no labels. classes: names with commas between them. every: all other keys
    as comments, too.
    """

    images: str
    population: int | None
    base: str
    epsilon: float
    label: str | None = None
    unit: str | None = None
    classes: str | None = None
    every: bool = False


def write_starter(path: Path, answers: Answers) -> None:
    """Writes the recipe. Raises: `InputError` if the file exists; `RecipeError` for numbers out of range."""
    if not is_hub(answers.images) and not Path(answers.images).exists():
        raise DataError(
            f"images not found: {answers.images}",
            hint="give a folder, a parquet file, a manifest (.csv, .tsv) or hf://owner/name",
        )
    if path.exists():
        raise InputError(f"{path} exists already", hint="give another --out")
    if not path.parent.is_dir():
        raise InputError(f"folder not found: {path.parent}", hint="make it, or give another --out")
    value = _value(path, answers)
    recipe = _checked(path, value)
    written = WRITTEN | {f"{name}.{key}" for name, part in value.items() if name != "base" for key in part}
    if answers.population is None:
        written -= {"mechanism.expected_units"}  # its default is a part of the population
    lines = _section(recipe, "", written, None if answers.every else written | SEEN)
    if answers.population is None:
        lines = (_BLANKS.sub(lambda found: found[1].ljust(len(found[0])), line, count=1) for line in lines)
    text = HEAD.format(name=shlex.quote(path.name)) + "\n".join(lines) + "\n"
    try:
        path.write_text(text + ("" if answers.every else TAIL), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", hint="give another --out") from error


def _value(path: Path, answers: Answers) -> dict[str, Any]:
    """The recipe as plain data: what was answered, and what the kind of the images says."""
    kind = kind_of(answers.images)
    data: dict[str, Any] = {"path": answers.images, "label": _label(kind, answers)}
    budget: dict[str, Any] = {"epsilon": answers.epsilon}
    if kind == "dicom":  # every DICOM file says whose it is
        budget["unit"] = "PatientID"
    if is_hub(answers.images):  # nothing can be written beside it
        budget["ledger"] = _name_of(answers.images) + ".ledger"
    else:
        data["path"] = _relative(Path(answers.images), path.parent)
    if answers.unit is not None:
        budget["unit"] = answers.unit
    if answers.classes is not None:
        data["classes"] = [name.strip() for name in answers.classes.split(",")]
    return {
        "base": _placed_base(answers.base, path.parent),
        "data": data,
        "budget": budget,
        "mechanism": {"population": STAND_IN if answers.population is None else answers.population},
        "training": {"noise_draws": 1},  # more take time in which a step could see more units
    }


def _name_of(data_set: str) -> str:
    """`xrays` of `hf://clinic/xrays:train`; nobody is asked. Raises: `DataError` for what is no name."""
    from dp_diffusers.data.hub import parsed

    return parsed(data_set).name.partition("/")[2]


def _label(kind: str, answers: Answers) -> str | None:
    """The answer, or where labels of this kind of source are; class folders only where there are any."""
    if answers.label is not None:
        return None if answers.label == "null" else answers.label
    if kind == "folder" and not any(item.is_dir() for item in Path(answers.images).iterdir()):
        return None
    return default_label(kind)


def _checked(path: Path, value: dict[str, Any]) -> Recipe:
    """The recipe before it is written. Raises `RecipeError`."""
    from dp_diffusers.recipe.checks import cross_checks
    from dp_diffusers.recipe.file import RecipeSource, validate

    return validate(Recipe, RecipeSource(path=path, value=value), cross_checks(value))


def _relative(images: Path, folder: Path) -> str:
    try:
        return str(images.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(images.resolve())


def _placed_base(base: str, folder: Path) -> str:
    """A base that is here, as the recipe's folder finds it; a link keeps its own name, which a card shows."""
    here = Path(base)
    if here.is_absolute() or not here.exists():
        return base
    place = here.parent.resolve() / here.name
    return str(place.relative_to(folder.resolve()) if place.is_relative_to(folder.resolve()) else place)


def _section(model: BaseModel, prefix: str, written: Set[str], shown: Set[str] | None) -> Iterator[str]:
    """The lines of a section: what is written as keys, the rest of what is shown as comments; None is all."""
    indent = "  " if prefix else ""
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel) and not prefix:
            if lines := list(_section(value, f"{name}.", written, shown)):
                yield f"\n{name}:"
                yield from lines
            continue
        if shown is not None and prefix + name not in shown:
            continue
        plain = value.model_dump() if isinstance(value, BaseModel) else value
        text = dump_in_line(plain)
        mark = "" if prefix + name in written else "# "
        yield f"{indent}{mark}{name}: {text}".ljust(44) + f"  # {info.description}"
