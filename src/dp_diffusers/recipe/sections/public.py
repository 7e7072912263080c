"""The section `training.public` of a recipe: public images that are mixed in without clip and noise.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror those of public pre-training.
"""

from __future__ import annotations

from pydantic import Field

from dp_diffusers.recipe.problems import Section
from dp_diffusers.recipe.sections.limits import MOST_ROWS


class PublicSettings(Section):
    """Public images whose gradient is added to the noisy one, for no epsilon."""

    path: str = Field(
        min_length=1, description="images that anyone may see: a folder, a parquet file or a manifest"
    )
    label: str | None = Field(
        default="label",
        min_length=1,
        description="label column (of a folder of pictures `label` is its class folders); null: no labels",
    )
    weight: float = Field(
        default=1.0, gt=0, le=1e3, description="of their mean gradient against that of the private units"
    )
    batch_size: int = Field(default=64, ge=1, le=MOST_ROWS, description="public images in a step")
