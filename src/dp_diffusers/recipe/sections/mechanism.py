"""The section `mechanism` of a recipe: how privacy is bought.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections.evolution import of_pe_alone, refuse_dpsgd_keys, with_defaults
from dp_diffusers.recipe.sections.limits import MOST_ROWS, MOST_STEPS, MOST_UNITS

ADAPTIVE: Final = {"target_quantile": 0.5, "quantile_rate": 0.2}


class MechanismSettings(Section):
    """How privacy is bought: all of it public and fixed before the run."""

    name: Literal["dpsgd", "pe", "none"] = Field(
        default="dpsgd",
        description="`dpsgd` trains; `pe` (Private Evolution) trains nothing, private images vote for "
        "synthetic ones; `none` is the non-private run, for ceilings only",
    )
    steps: int = Field(
        default=200, ge=1, le=MOST_STEPS, description="noisy steps; with pe iterations, 10 if not given"
    )
    expected_units: int = Field(
        ge=1,
        le=MOST_UNITS,
        description="mean number of units in a step (default: a tenth, at most 4096; with pe all of them)",
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

    samples: int | None = Field(
        default=None,
        ge=1,
        le=MOST_ROWS,
        description="synthetic images that `pe` has voted for: 2,000 or a tenth of the population with it, "
        "null without",
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=MOST_UNITS,
        description="votes, with their noise, that an image of `pe` must have; those above it count: 0 with "
        "it, null without",
    )
    variation: list[float] | None = Field(
        default=None,
        description="[first, last] part of the denoising steps that `pe` does again to vary an image: "
        "[0.8, 0.4] with it, null without",
    )
    features: Literal["pixels"] | None = Field(
        default=None,
        description="public space in which `pe` looks for the nearest image: `pixels` (grey values of "
        "blocks) with it, null without",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_pe(cls, value: Any) -> Any:
        """Private Evolution has settings of its own, and every unit votes in each of its iterations."""
        return with_defaults(value) if isinstance(value, dict) and value.get("name") == "pe" else value

    @model_validator(mode="before")
    @classmethod
    def _default_expected_units(cls, value: Any) -> Any:
        if isinstance(value, dict) and "expected_units" not in value:
            population = value.get("population")
            if value.get("name") == "pe":
                return {**value, "expected_units": population} if "population" in value else value
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

    @field_validator("samples", "threshold", "variation", "features")
    @classmethod
    def _of_pe_alone(cls, value: Any, info: ValidationInfo) -> Any:
        return of_pe_alone(value, info)

    @model_validator(mode="after")
    def _nothing_of_dpsgd_with_pe(self) -> MechanismSettings:
        if self.name == "pe":
            refuse_dpsgd_keys(self.model_dump())
        return self

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
