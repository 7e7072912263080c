"""The public images that a study runs on where no reference is named, in the place of the private ones.

Guarantees:
- `data.path` of a cell is replaced before anything is opened, so no private image is read; public images that
  lie where those of a cell do are refused before that (`apart`, by place alone);
- four fifths of them are trained on, one fifth is the reference (`public_split`), written once;
- noise and sampling probability are those of the recipe, this to 5 %. With fewer images than the declared
  population both it and expected units shrink alike: less signal meets the same noise, gains look smaller.
What a base learnt from these very images it cannot gain from them again; the study says so. May import torch
and diffusers through the base, and the readers of `data`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dp_diffusers.drawing.images_out import write_parquet
from dp_diffusers.errors import DataError, ParameterError, RunFolderError
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.file import differing_keys
from dp_diffusers.recipe.study import Cell, LoadedStudy
from dp_diffusers.studying.apart import require_public
from dp_diffusers.studying.public_split import OTHERWISE, loaded, split
from dp_diffusers.studying.results import Images
from dp_diffusers.whole_files import write_text

ROUNDING: Final = 0.05  # of the sampling probability, by whole numbers of expected units
FOLDER, IMAGES, REFERENCE, RECORD = "proxy", "images.parquet", "reference.parquet", "proxy.json"


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """What was written. images, reference: how many there are of each."""

    images: int
    reference: int
    classes: tuple[str, ...]
    of_the_base: bool

    def note(self, population: int) -> str:
        """What a table says about it."""
        where = "of the images that the base learnt from" if self.of_the_base else "public images"
        text = (
            f"a public stand-in, no private image: {self.images} {where} to train on, "
            f"{self.reference} others as reference"
        )
        if self.images < population:
            share = f"{self.images} of the {population} units declared"
            text += (
                f"; with {share}, population and expected units are scaled down alike: the noise of a step "
                "is that of the recipe, the signal smaller, so that gains are underestimated"
            )
        if self.of_the_base:
            text += (
                "; what the base learnt from them already it does not gain again: gains are underestimated"
            )
        return text


def on_stand_in(study: LoadedStudy, out: Path, progress: Callable[..., None]) -> tuple[LoadedStudy, Images]:
    """The study with public images in the place of private ones, in `out/proxy`, written at the first start.

    Raises `DataError`, `ParameterError` for cells or images that no stand-in can be made for,
    `RunFolderError` where another one is in `out`.
    """
    recipes = [recipe for cell in study.cells for recipe in cell.recipes]
    population = _population(recipes)
    folder, asked = out / FOLDER, _asked(study, recipes, population)
    key = "the base's data" if study.settings.proxy is None else "proxy"
    require_public(asked["proxy"]["data"], key, recipes)
    made = _made(folder, asked, recipes, progress)
    cells = tuple(
        Cell(name=cell.name, recipes=tuple(_replaced(recipe, folder, made) for recipe in cell.recipes))
        for cell in study.cells
    )
    scored = study.settings.evaluate.model_copy(update={"reference": str((folder / REFERENCE).resolve())})
    settings = study.settings.model_copy(update={"evaluate": scored})
    return (
        replace(study, settings=settings, cells=cells),
        Images(public_stand_in=True, note=made.note(population)),
    )


def _population(recipes: Sequence[Recipe]) -> int:
    """The declared one. Raises `ParameterError` for cells that one set of images cannot stand in for."""
    populations = sorted({recipe.mechanism.population for recipe in recipes})
    if len(populations) > 1:
        raise ParameterError(
            f"expected one mechanism.population for all cells on a stand-in, got {populations}",
            hint=f"one stand-in has one size; give all cells the same, {OTHERWISE}",
        )
    for recipe in recipes:
        if recipe.data.caption_column is not None:
            raise ParameterError(
                "a public stand-in has no column of texts, as data.caption_column asks for",
                hint=f"use data.caption with {{label}}, {OTHERWISE}",
            )
    return populations[0]


def _asked(study: LoadedStudy, recipes: Sequence[Recipe], population: int) -> dict[str, Any]:
    """What decides the stand-in: where it comes from, the classes, the size."""
    wanted = {json.dumps(recipe.data.classes) for recipe in recipes}
    classes = json.loads(wanted.pop()) if len(wanted) == 1 else None
    return {"proxy": _sources(study, recipes), "data.classes": classes, "mechanism.population": population}


def _sources(study: LoadedStudy, recipes: Sequence[Recipe]) -> dict[str, Any]:
    """The images of `proxy`, or those that the base was trained on, as `load_public` takes them."""
    if study.settings.proxy is not None:
        return {"data": [{"source": "files", "path": path} for path in study.settings.proxy], "seed": 0}
    hint = f"name labelled public images: proxy: PATH, {OTHERWISE}"
    bases = {recipe.base for recipe in recipes}
    if len(bases) > 1:
        raise ParameterError("expected one base for all cells, to take its public images", hint=hint)
    (base,) = bases
    record = Path(base) / "pretraining.json"
    if not record.is_file():
        raise DataError(f"base {base} does not say which public images it was trained on", hint=hint)
    recipe = json.loads(record.read_text(encoding="utf-8"))["recipe"]
    shape = {"size": recipe["model"]["size"], "channels": recipe["model"]["channels"]}
    return {"data": recipe["data"], "seed": recipe["training"]["seed"], **shape}


def _made(
    folder: Path, asked: dict[str, Any], recipes: Sequence[Recipe], progress: Callable[..., None]
) -> StandIn:
    """The stand-in in `folder`: of an earlier start, or made and written now, whole or not at all."""
    record = folder / RECORD
    if folder.exists():
        try:
            document = json.loads(record.read_text(encoding="utf-8"))
            facts, before = document["stand_in"], document["asked"]
            found = StandIn(**{**facts, "classes": tuple(facts["classes"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{record} is damaged", hint="give another --out") from error
        different = differing_keys(before, asked, "")
        if different:
            raise RunFolderError(
                f"{folder} was made for another {', '.join(different)}",
                hint="give another --out: its runs were trained on those images",
            )
        return found
    progress(message="preparing the public stand-in")
    images, reference = split(
        loaded(asked["proxy"], recipes[0]), asked["data.classes"], asked["mechanism.population"]
    )
    for recipe in recipes:
        _scaled(recipe, len(images.images))  # refused before anything is written
    made = StandIn(
        images=len(images.images),
        reference=len(reference.images),
        classes=images.class_names,
        of_the_base="size" in asked["proxy"],
    )
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    building.mkdir(mode=0o700)  # whoever named the images may have been wrong about who may see them
    for name, part in ((IMAGES, images), (REFERENCE, reference)):
        write_parquet(part.images, part.labels, part.class_names, building / name)
    document = {"asked": asked, "stand_in": made.__dict__}
    write_text(building / RECORD, json.dumps(document, indent=2) + "\n")
    building.rename(folder)
    return made


def _replaced(recipe: Recipe, folder: Path, made: StandIn) -> Recipe:
    """The recipe on the stand-in: its images, its classes, each image a unit, q as it was."""
    data = recipe.data.model_copy(
        update={
            "path": str((folder / IMAGES).resolve()),
            "label": "label",
            "classes": recipe.data.classes if _same(recipe, made) else list(made.classes),
            "base_classes": recipe.data.base_classes if _same(recipe, made) else None,
            "resize": None,
            "window": None,
        }
    )
    budget = recipe.budget.model_copy(update={"unit": "image"})
    return recipe.model_copy(
        update={"data": data, "budget": budget, "mechanism": _scaled(recipe, made.images)}
    )


def _same(recipe: Recipe, made: StandIn) -> bool:
    return set(recipe.data.classes or ()) == set(made.classes)


def _scaled(recipe: Recipe, units: int) -> Any:
    """The mechanism with at most `units` units, of equal sampling probability. Raises `ParameterError`."""
    mechanism = recipe.mechanism
    if units >= mechanism.population:
        return mechanism
    if mechanism.max_units is not None:
        raise ParameterError(
            f"the public stand-in has {units} of {mechanism.population} units, and mechanism.max_units does "
            "not scale",
            hint=f"leave it out, or give more images: proxy: PATH, {OTHERWISE}",
        )
    expected = max(1, round(mechanism.expected_units * units / mechanism.population))
    asked, found = mechanism.expected_units / mechanism.population, expected / units
    if abs(found / asked - 1) > ROUNDING and mechanism.name != "pe":  # all units vote in `pe`
        raise ParameterError(
            f"the public stand-in has {units} of {mechanism.population} units: {expected} expected of these "
            f"is a sampling probability of {found:.3g}, the recipe's is {asked:.3g}",
            hint=f"give more images: proxy: PATH, or raise mechanism.expected_units, {OTHERWISE}",
        )
    return mechanism.model_copy(update={"population": units, "expected_units": expected})
