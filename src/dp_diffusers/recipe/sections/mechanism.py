"""The section `mechanism` of a recipe: how privacy is bought.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections.limits import MOST_STEPS, MOST_UNITS

ADAPTIVE: Final = {"target_quantile": 0.5, "quantile_rate": 0.2}


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
    clipping: Literal["flat", "automatic", "per_layer", "adaptive"] = Field(
        default="flat",
        description="clipping rule: `flat`; `automatic` brings every unit near the clip norm; `per_layer` "
        "clips each layer to its part of it; `adaptive` lets it follow a quantile of the units, by a count "
        "that is part of each step",
    )
    target_quantile: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of units that `adaptive` clipping leaves unclipped: 0.5 with it, null without",
    )
    quantile_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="how fast the clip norm of `adaptive` clipping moves: 0.2 with it, null without",
    )
    quantile_noise: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="noise on the count of `adaptive` clipping, above half the noise multiplier; null: "
        "expected_units / 20",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _quantile_of_adaptive(cls, value: Any) -> Any:
        """Adaptive clipping has a target and a rate, other clipping has none."""
        if not isinstance(value, dict) or value.get("clipping") != "adaptive":
            return value
        usual = {key: number for key, number in ADAPTIVE.items() if value.get(key) is None}
        return {**value, **usual}

    @field_validator("clipping")
    @classmethod
    def _clips_something(cls, clipping: str, info: ValidationInfo) -> str:
        if info.data.get("name") == "none" and clipping != "flat":
            raise RefusedValueError(
                "expected mechanism.clipping to be flat without privacy (mechanism.name: none), "
                f"got {clipping!r}",
                "a run without privacy clips nothing",
            )
        return clipping

    @field_validator("target_quantile", "quantile_rate", "quantile_noise")
    @classmethod
    def _has_an_effect(cls, value: float | None, info: ValidationInfo) -> float | None:
        clipping = info.data.get("clipping", "adaptive")
        if value is not None and clipping != "adaptive":
            raise RefusedValueError(
                f"expected mechanism.{info.field_name} to be null with mechanism.clipping {clipping}, "
                f"got {value:g}",
                "it has no effect; set mechanism.clipping to adaptive",
            )
        return value
