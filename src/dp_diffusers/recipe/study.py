"""The recipe of a study: one fine-tuning recipe in several variants and seeds, and what scores them.

Guarantees that every cell is a valid recipe before the first one runs, and that all problems of all cells are
named at once. May import pydantic and PyYAML; numpy, torch and images are never touched. Source: the contract
of `study` in the design.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import RecipeError
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.checks import cross_checks
from dp_diffusers.recipe.file import RecipeSource, read, validate
from dp_diffusers.recipe.problems import RefusedValueError, Section, shown
from dp_diffusers.recipe.sections import SEEDS
from dp_diffusers.recipe.study_score import ScoreSettings

__all__ = ["Cell", "CellSettings", "LoadedStudy", "ScoreSettings", "StudyRecipe", "load_study"]

OF_THE_STUDY: Final = {
    "training.seed": "seeds",
    "generation.seed": "seeds",
    "budget.ledger": "each run has a ledger of its own in --out",
}
PUBLIC: Final = "public model"  # the name of the ε = 0 row; a second one is called `public model 2`
LONGEST: Final = 120  # letters of a folder's name: disks take 255, and endings are added to it
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,79}")


class CellSettings(Section):
    """One variant of the recipe."""

    name: str = Field(description="of the cell: letters, digits and ._=+-, no spaces")
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="dotted keys of the recipe and their values; a section's name replaces the whole section",
    )

    @field_validator("name")
    @classmethod
    def _can_name_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise RefusedValueError(
                f"expected cells.name of letters, digits and ._=+-, got {shown(name)}", "it names a folder"
            )
        return name


def _one_or_more(value: object) -> object:
    """A path alone is a list of one."""
    return [value] if isinstance(value, str) else value


class StudyRecipe(Section):
    """A study: `cells` x `grid` x `seeds`, each of them trained, generated from and scored."""

    recipe: str | dict[str, Any] = Field(description="a fine-tuning recipe: its file, or its keys")
    cells: list[CellSettings] = Field(
        default_factory=lambda: [CellSettings(name="recipe")], min_length=1, description="variants, by name"
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="dotted keys and the values that every cell is run with"
    )
    seeds: list[int] = Field(
        default=[0, 1], min_length=1, description="of training and generation; two or more give intervals"
    )
    public_model: bool = Field(
        default=True, description="a row for images of the base as it is (ε = 0), made in the same way"
    )
    proxy: Annotated[list[str] | None, BeforeValidator(_one_or_more)] = Field(
        default=None,
        min_length=1,
        description="without `evaluate.reference`: labelled public images, a path or a list, that stand in "
        "for the private ones; null: those that the base was trained on",
    )
    evaluate: ScoreSettings = Field(default_factory=ScoreSettings)

    @model_validator(mode="after")
    def _one_kind_of_images(self) -> StudyRecipe:
        if self.proxy is not None and self.evaluate.reference is not None:
            raise RefusedValueError(
                "expected one of proxy and evaluate.reference, got both",
                "a stand-in has a reference of its own; beside a reference data.path is trained on",
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or not all(0 <= seed <= SEEDS for seed in seeds):
            raise RefusedValueError(f"expected seeds to be distinct numbers >= 0, got {shown(seeds)}")
        return seeds

    @field_validator("grid")
    @classmethod
    def _has_values(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            if not values or len({repr(value) for value in values}) < len(values):
                raise RefusedValueError(
                    f"expected grid.{key} to be a list of distinct values, at least one, got {shown(values)}"
                )
        return grid


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A variant of the recipe: its name, and the recipe of each seed, in the order of `StudyRecipe.seeds`."""

    name: str
    recipes: tuple[Recipe, ...]


@dataclass(frozen=True, kw_only=True)
class LoadedStudy:
    """A study whose cells are all valid recipes; paths of `settings` are absolute.

    Without `evaluate.reference` the recipes still name the private images: see `studying.stand_in`.
    """

    settings: StudyRecipe
    cells: tuple[Cell, ...]


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> LoadedStudy:
    """The study in a YAML (or JSON) file. Raises `RecipeError` with all problems of all cells."""
    settings = validate(StudyRecipe, read(path, overrides))
    file = Path(path)
    base, folder = _base(settings.recipe, file.resolve().parent)
    cells, problems = [], []
    for name, changes in _variants(settings):
        problems += _refused(file, name, changes)
        recipes = []
        for seed in settings.seeds:
            source = RecipeSource(
                path=Path(f"{file.name}, cell {name}"), value=_document(base, changes, seed)
            )
            try:
                recipes.append(validate(Recipe, source, cross_checks(source.value)).resolved(folder))
            except RecipeError as error:
                problems += error.problems
        cells.append(Cell(name=name, recipes=tuple(recipes)))
    problems += [(f"{file.name}: {text}", hint) for text, hint in _clashes([cell.name for cell in cells])]
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return LoadedStudy(settings=_resolved(settings, file.resolve().parent), cells=tuple(cells))


def _resolved(settings: StudyRecipe, folder: Path) -> StudyRecipe:
    """The same settings with paths relative to `folder` made absolute."""
    reference, features, proxy = settings.evaluate.reference, settings.evaluate.features, settings.proxy
    scored = settings.evaluate.model_copy(
        update={
            "reference": None if reference is None else _placed(reference, folder),
            "features": None if features is None else _placed_features(features, folder),
        }
    )
    placed = None if proxy is None else [_placed(path, folder) for path in proxy]
    return settings.model_copy(update={"evaluate": scored, "proxy": placed})


def _placed(path: str, folder: Path) -> str:
    return path if is_hub(path) else str(folder / path)


def _placed_features(name: str, folder: Path) -> str:
    """A network, or the weights behind a colon, below `folder` if they are there; else the name as it is."""
    from dp_diffusers.evaluation.features import EXTRACTORS

    known, colon, weights = name.partition(":")
    if name in EXTRACTORS:
        return name
    if colon and known in EXTRACTORS:
        return f"{known}:{folder / weights}" if (folder / weights).exists() else name
    return str(folder / name) if (folder / name).exists() else name


def folder_name(cell: str) -> str:
    """What the folder of a cell, or of the public model, is called; a long name ends in its hash."""
    name = cell.replace(" ", "-")
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: LONGEST - len(digest) - 1]}-{digest}"


def _clashes(names: list[str]) -> Iterator[tuple[str, str]]:
    """Names that mean one folder, on disks too where `A` and `a` are the same; text and hint of each."""
    public = re.compile(rf"{re.escape(folder_name(PUBLIC))}(-\d+)?")
    meant: dict[str, list[str]] = {}
    for name in names:
        meant.setdefault(folder_name(name).casefold(), []).append(name)
    for folder, sharing in sorted(meant.items()):
        if public.fullmatch(folder):
            yield f"a cell is called {sharing[0]!r}, as the row of the public model", "call it otherwise"
        if len(set(sharing)) > 1:
            both = " and ".join(map(repr, dict.fromkeys(sharing)))
            yield f"cells {both} would share a folder", "names must differ in more than their case"
        elif len(sharing) > 1:
            yield f"two cells are called {sharing[0]!r}", "give each its own"


def _base(recipe: str | dict[str, Any], folder: Path) -> tuple[dict[str, Any], Path]:
    """The recipe that cells vary, as plain data, and the folder that its paths are relative to."""
    if isinstance(recipe, dict):
        return recipe, folder
    file = folder / recipe
    return read(file).value, file.resolve().parent


def _variants(settings: StudyRecipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and changes of every cell at every point of the grid."""
    for cell in settings.cells:
        for values in itertools.product(*settings.grid.values()):
            point = dict(zip(settings.grid, values, strict=True))
            parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items()]
            yield "+".join([cell.name, *parts]), {**cell.set, **point}


def _short(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("-") or "null"


def _refused(file: Path, name: str, changes: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """A problem for each key that the study itself decides."""
    return [
        (f"{file.name}, cell {name}: {key} is the study's own", hint)
        for key, hint in OF_THE_STUDY.items()
        if key in changes
    ]


def _document(base: Mapping[str, Any], changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The recipe of one run as plain data: its changes, its seeds, and no ledger but its own."""
    document = copy.deepcopy(dict(base))
    for key, value in changes.items():
        put(document, key, copy.deepcopy(value))
    put(document, "generation.seed", seed)
    mechanism = document.get("mechanism")
    if not isinstance(mechanism, Mapping) or mechanism.get("name") != "pe":
        put(document, "training.seed", seed)
    if isinstance(document.get("budget"), dict):
        document["budget"].pop("ledger", None)
    return document


def put(document: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets a dotted key, making the sections on the way."""
    *sections, last = dotted.split(".")
    for section in sections:
        if not isinstance(document.get(section), dict):
            document[section] = {}
        document = document[section]
    document[last] = value
