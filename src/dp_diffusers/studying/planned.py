"""The runs of a study: each cell with each seed, and the rows of the public model before them.

Guarantees a folder and a ledger of its own for each run, and that a cell without a plan is named before one
runs. May import the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import BudgetError, ParameterError
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.study import PUBLIC, LoadedStudy, folder_name
from dp_diffusers.run.ledger_place import require_first

CELLS: Final = "cells"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cell with one seed; `public` for the base as it is."""

    cell: str
    seed: int
    recipe: Recipe
    public: bool = False

    def folder(self, out: Path) -> Path:
        """Its run folder."""
        return out / CELLS / folder_name(self.cell) / f"seed-{self.seed}"

    def settings(self, out: Path) -> Recipe:
        """Its recipe, with the ledger that is its own."""
        ledger = str(self.folder(out).resolve()) + ".ledger"
        budget = self.recipe.budget.model_copy(update={"ledger": ledger})
        return self.recipe.model_copy(update={"budget": budget})


def runs_of(study: LoadedStudy) -> list[Run]:
    """The public model first, then cell by cell, all seeds of each."""
    seeds = study.settings.seeds
    cells = [
        Run(cell=cell.name, seed=seed, recipe=recipe)
        for cell in study.cells
        for seed, recipe in zip(seeds, cell.recipes, strict=True)
    ]
    return [*_public_runs(study), *cells] if study.settings.public_model else cells


def require_no_account(study: LoadedStudy) -> None:
    """Raises `InputError` where the images of a cell have a ledger, whose cap the cells would pass.

    A study that scores against real images is for benchmark data, which anyone may see.
    """
    for cell in study.cells:
        for recipe in cell.recipes:
            ledger = recipe.budget.ledger  # the default where the recipe names none
            if ledger is not None and Path(ledger).exists():
                raise ParameterError(
                    f"these images have a ledger, {ledger}, and the runs of a study are not in it",
                    hint="leave evaluate.reference out, for a stand-in of public images; or, for benchmark "
                    "data that anyone may see, name a ledger that is not there in budget.ledger",
                )
            if ledger is not None:
                require_first(ledger, recipe.data.path)  # or beside what links and rows lead to


def require_plans(runs: Iterable[Run]) -> None:
    """Calibrates the noise of each run that trains, once for all that share it: a second or so, no image.

    Raises `BudgetError`, `ParameterError` with the cell's name.
    """
    met: set[str] = set()
    for run in runs:
        decides = json.dumps(_decides_plan(run.recipe), sort_keys=True)
        if run.public or decides in met:
            continue
        met.add(decides)
        try:
            run.recipe.plan()
        except (BudgetError, ParameterError) as error:
            raise type(error)(f"cell {run.cell}: {error.message}", hint=error.hint) from error


def _decides_plan(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that its plan is made from, side queries included."""
    return recipe.model_dump(
        mode="json",
        include={
            "base": True,
            "budget": True,
            "mechanism": True,
            "strategy": {"name"},
            "data": {"classes", "base_classes", "label", "caption"},
            "generation": {"labels"},
            "teacher": True,
            "warmup": True,
        },
    )


def _public_runs(study: LoadedStudy) -> Iterator[Run]:
    """Once for each base and way of making images that a cell has."""
    known: list[dict[str, Any]] = []
    for cell in study.cells:
        decides = _decides_public_images(cell.recipes[0])
        if decides in known:
            continue
        known.append(decides)
        name = PUBLIC if len(known) == 1 else f"{PUBLIC} {len(known)}"
        for seed, recipe in zip(study.settings.seeds, cell.recipes, strict=True):
            yield Run(cell=name, seed=seed, recipe=recipe, public=True)


def _decides_public_images(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe, but for the seed, that changes the images of its base as it is.

    Their labels are uniform, whatever a run draws: no histogram is public.
    """
    asked = {"classes", "base_classes", "caption", "caption_column", "size"}
    return {
        "base": recipe.base,
        "generation": recipe.generation.model_dump(exclude={"seed", "teacher", "candidates", "labels"}),
        "data": recipe.data.model_dump(include=asked),
    }
