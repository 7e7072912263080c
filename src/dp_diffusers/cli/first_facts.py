"""What `train` says before it begins, under --quiet as well: facts that nobody may miss.

Guarantees that nothing is said but the recipe's own words and whether a ledger is there: no image is opened.
May import the recipe and the run folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.ledger_place import other_ledger

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe


def first_facts(recipe: Recipe, out: Path, *, quiet: bool) -> Iterator[str]:
    """A line for each; of a ledger once, before the run has an account."""
    if recipe.mechanism.name == "none":
        if quiet:  # else the plan is shown, which says it
            yield "NOT PRIVATE: mechanism.name is none, so that what this run makes may show its images"
    elif RunFolder(out).read(RUN) is None and (fact := ledger_fact(recipe)) is not None:
        yield fact


def ledger_fact(recipe: Recipe, *, follow: bool = True) -> str | None:
    """That the images have another ledger than the recipe names; None for a run without privacy.

    follow: links and rows of `data.path`, too, which is opened for it.
    """
    if recipe.mechanism.name == "none":
        return None
    return other_ledger(recipe.budget.ledger, recipe.data.path, follow=follow)
