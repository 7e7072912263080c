"""The section `mechanism` of a recipe: how privacy is bought.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dp_diffusers.recipe.problems import Section
from dp_diffusers.recipe.sections.limits import MOST_STEPS, MOST_UNITS


class MechanismSettings(Section):
    """How privacy is bought: all of it public and fixed before the run."""

    name: Literal["dpsgd", "none"] = Field(
        default="dpsgd", description="`none` is the non-private run, for ceilings only"
    )
    steps: int = Field(default=200, ge=1, le=MOST_STEPS, description="noisy steps")
    expected_units: int = Field(
        ge=1, le=MOST_UNITS, description="mean number of units in a step (default: a tenth, at most 4096)"
    )
    population: int = Field(
        ge=1, le=MOST_UNITS, description="declared public number of units in the data; never counted"
    )
    clip_norm: float = Field(default=1.0, gt=0, le=1e6, description="how far one unit can move a step")
    clipping: Literal["flat"] = Field(default="flat", description="clipping rule")
    max_units: int | None = Field(
        default=None,
        ge=1,
        le=MOST_UNITS,
        description="hard limit of a step, drawn from exactly `population` slots; free at five standard "
        "deviations above expected_units; null: none",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_expected_units(cls, value: Any) -> Any:
        if isinstance(value, dict) and "expected_units" not in value:
            population = value.get("population")
            units = population // 10 if isinstance(population, int) else 1
            return {**value, "expected_units": min(4096, max(1, units))}
        return value
