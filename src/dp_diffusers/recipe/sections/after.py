"""The sections `generation` and `audit` of a recipe: what is made of a run, and how it is checked.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dp_diffusers.recipe.problems import Section
from dp_diffusers.recipe.sections.limits import MOST_ROWS, NO_CAPTIONS, SEEDS, only


class GenerationSettings(Section):
    """The synthetic images."""

    images: int = Field(default=10_000, ge=1, le=10**9, description="number of synthetic images")
    labels: Literal["uniform", "histogram"] = Field(
        default="uniform",
        description="`uniform`: the same number of each class; `histogram`: as the private images have them, "
        "by noisy counts that the training pays for once, with about a tenth of epsilon",
    )
    prompts: Annotated[list[str] | None, only("generation.prompts", None, NO_CAPTIONS)] = Field(
        default=None, description="prompts of a text-to-image model: null in this version"
    )
    sampler: Literal["ddim", "dpmsolver++"] = Field(default="ddim", description="ddim or dpmsolver++")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(default=1.0, ge=0, le=1e3, description="classifier-free guidance; 1 is off")
    seed: int = Field(default=0, ge=0, le=SEEDS, description="one random stream per image")


class AuditSettings(Section):
    """The empirical check of epsilon, without private data; `dp-diffusers audit` makes it."""

    public: str | None = Field(
        default=None,
        min_length=1,
        description="public images, a folder or a parquet file, to train beside the canaries; null: "
        "procedural ones of the base's size",
    )
    canaries: int = Field(
        default=1000,
        ge=20,
        le=MOST_ROWS,
        description="artificial units, each in or out by a fair coin; more see more",
    )
