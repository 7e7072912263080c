"""The section `evaluate` of a study: how the images of every cell are scored.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. Source: the contract of `study` in the design.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from dp_diffusers.recipe.problems import Section


def _none(value: object) -> object:
    """`none` in a recipe is no extractor, as on the command line."""
    return None if value == "none" else value


class ScoreSettings(Section):
    """How the images of every cell are scored."""

    reference: str | None = Field(
        default=None,
        min_length=1,
        description="held-out real images that classifiers are tested on, on disk or hf://owner/name; given, "
        "`data.path` is taken as public benchmark data; null: the study runs on a public stand-in, a fifth "
        "of which is the reference",
    )
    seeds: int = Field(default=2, ge=2, le=100, description="classifiers for each set of images")
    passes: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="images seen by a classifier in training; null: by their size",
    )
    features: Annotated[str | None, BeforeValidator(_none)] = Field(
        default=None,
        min_length=1,
        description="extractor of the distances (FID, KID, precision, recall, density, coverage) of each "
        "run, by name or the path of a network; none: accuracy alone",
    )
