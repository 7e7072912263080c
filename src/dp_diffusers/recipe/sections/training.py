"""The section `training` of a recipe: how the model learns; nothing in it can change epsilon.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dp_diffusers.recipe.problems import Section
from dp_diffusers.recipe.sections.limits import MOST_ROWS, MOST_STEPS, SEEDS, Timesteps, only


class TrainingSettings(Section):
    """How the model learns; nothing here can change epsilon."""

    noise_draws: int = Field(
        default=4, ge=1, le=MOST_ROWS, description="noise draws per image and step, averaged before the clip"
    )
    augmentations: Annotated[
        int, only("training.augmentations", 1, "noise_draws makes several rows of an image")
    ] = Field(default=1, description="augmented copies per image: 1 in this version")
    max_images_per_unit: int = Field(
        default=8, ge=1, le=MOST_ROWS, description="images of one unit used in a step at most"
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1e3, description="step size")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="adam", description="sgd, adam or adamw")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="learning rate after the warm-up"
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=MOST_STEPS, description="steps until the learning rate is reached"
    )
    ema: float = Field(default=0.95, ge=0, lt=1, description="averaging of weights per step; 0 is off")
    timesteps: Timesteps = Field(default="uniform", description="distribution of the noise level")
    label_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of rows trained without label")
    seed: int = Field(default=0, ge=0, le=SEEDS, description="initial adapters only; never the noise")
