"""The section `training` of a recipe: how the model learns; nothing in it can change epsilon.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section, shown
from dp_diffusers.recipe.sections.limits import MOST_ROWS, MOST_STEPS, SEEDS, Timesteps
from dp_diffusers.recipe.sections.public import PublicSettings


class TrainingSettings(Section):
    """How the model learns; nothing here can change epsilon."""

    noise_draws: int = Field(
        default=4, ge=1, le=MOST_ROWS, description="noise draws per image and step, averaged before the clip"
    )
    augmentations: int = Field(
        default=1,
        ge=1,
        le=MOST_ROWS,
        description="copies per image and step, the image itself and variants, averaged before the clip",
    )
    augment: list[Literal["flip", "shift"]] | None = Field(
        default=None,
        description="what variants are: mirror images (flip), moved by a sixteenth (shift); null: shift "
        "where augmentations is above 1",
    )
    max_images_per_unit: int = Field(
        default=8, ge=1, le=MOST_ROWS, description="images of one unit used in a step at most"
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1e3, description="step size")
    optimizer: Literal["sgd", "adam", "adamw", "adam_bc"] = Field(
        default="adam",
        description="sgd, adam, adamw, or adam_bc: adam with the noise's known variance taken off",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="learning rate after the warm-up"
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=MOST_STEPS, description="steps until the learning rate is reached"
    )
    ema: float = Field(default=0.95, ge=0, lt=1, description="averaging of weights per step; 0 is off")
    timesteps: Timesteps = Field(default="uniform", description="distribution of the noise level")
    label_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of rows trained without label")
    public: PublicSettings | None = Field(
        default=None, description="public images mixed in without clip and noise; null: none"
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=SEEDS,
        description="initial weights, draws of public images and of a warm-up's; never the noise",
    )

    @model_validator(mode="before")
    @classmethod
    def _shift_unless_told(cls, value: Any) -> Any:
        """Several copies of an image differ by a shift, unless something else is asked for."""
        if not isinstance(value, dict) or value.get("augment") is not None:
            return value
        copies = value.get("augmentations", 1)
        return {**value, "augment": ["shift"]} if isinstance(copies, int) and copies > 1 else value

    @field_validator("augment")
    @classmethod
    def _augments_something(cls, kinds: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if kinds is None:
            return None
        if info.data.get("augmentations") == 1:
            raise RefusedValueError(
                f"expected training.augment to be null with training.augmentations 1, got {shown(kinds)}",
                "it has no effect; raise training.augmentations",
            )
        if not kinds or len(set(kinds)) < len(kinds):
            raise RefusedValueError(
                f"expected training.augment to name flip, shift or both, got {shown(kinds)}", "name each once"
            )
        return kinds
