"""How many rows of private images a run works on: the cost that a table shows beside an accuracy.

Guarantees an upper bound of what is to be expected, from public numbers alone: how many units a step met, and
how many images they have, is private. May import the recipe and the names of queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_diffusers.mechanisms.saliency import NAME as SALIENCY
from dp_diffusers.recipe import Recipe


def expected_rows_at_most(recipe: Recipe, steps: int, queries: int = 0) -> int:
    """Rows of gradients: (steps + queries) x expected units x images of a unit x copies x noise draws.

    A unit has one image where the image is the unit, else at most `max_images_per_unit` in a step. Of `pe`:
    the votes, one of each unit in each step. queries: samples that chose the layers of `sapf`.
    """
    mechanism, training = recipe.mechanism, recipe.training
    if mechanism.name == "pe":
        return steps * mechanism.population
    images = 1 if recipe.budget.unit == "image" else training.max_images_per_unit
    rows_of_a_unit = images * training.augmentations * training.noise_draws
    return (steps + queries) * mechanism.expected_units * rows_of_a_unit


def layer_queries(mechanisms: Sequence[Mapping[str, Any]]) -> int:
    """How often the layers were asked for, by a certificate's `mechanisms`."""
    return sum(int(entry["steps_charged"]) for entry in mechanisms if entry["name"] == SALIENCY)
