"""The sections `generation` and `audit` of a recipe: what is made of a run, and how it is checked.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section, shown
from dp_diffusers.recipe.sections.limits import MOST_CANDIDATES, MOST_ROWS, SEEDS


class GenerationSettings(Section):
    """The synthetic images."""

    images: int = Field(default=10_000, ge=1, le=10**9, description="number of synthetic images")
    labels: Literal["uniform", "histogram"] = Field(
        default="uniform",
        description="`uniform`: the same number of each class; `histogram`: as the private images have them, "
        "by noisy counts that the training pays for once, with about a tenth of epsilon",
    )
    teacher: Literal["relabel", "off"] = Field(
        default="relabel",
        description="`relabel`: where the run released a teacher, an image's label is its answer; `off`: the "
        "class that the image was asked to be",
    )
    candidates: int = Field(
        default=1,
        ge=1,
        le=MOST_CANDIDATES,
        description="images drawn for each that is kept; more than 1 keeps them as the units are spread over "
        "the clusters of the run's teacher (`teacher.clusters`)",
    )
    prompts: list[str] | None = Field(
        default=None,
        description="texts to make images of, as many of each, for bases that take text; null: those of "
        "data.caption",
    )
    sampler: Literal["ddim", "dpmsolver++"] = Field(default="ddim", description="ddim or dpmsolver++")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(default=1.0, ge=0, le=1e3, description="classifier-free guidance; 1 is off")
    seed: int = Field(default=0, ge=0, le=SEEDS, description="one random stream per image")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of network and autoencoder while they draw; bfloat16 changes the images a little",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value

    @field_validator("prompts")
    @classmethod
    def _distinct(cls, prompts: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if prompts is None:
            return None
        if not prompts or len(set(prompts)) < len(prompts) or not all(text.strip() for text in prompts):
            raise RefusedValueError(
                f"expected generation.prompts to be distinct texts, at least one, got {shown(prompts)}",
                "null takes the texts of data.caption",
            )
        if info.data.get("labels") == "histogram":
            raise RefusedValueError(
                "expected generation.prompts to be null with generation.labels histogram (it counts classes)",
                "leave it out, or set generation.labels to uniform",
            )
        return prompts


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
