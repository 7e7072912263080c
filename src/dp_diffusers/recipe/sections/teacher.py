"""The section `teacher` of a recipe: a classifier of public features that a run pays for and releases.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch at the top. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from dp_diffusers.errors import nearest
from dp_diffusers.recipe.problems import RefusedValueError, Section, shown


class TeacherSettings(Section):
    """A linear classifier of public features, made of sums with noise; `{}` takes the defaults."""

    features: str = Field(
        default="efficientnet-lite0-64",
        description="public features of an image: as in `evaluate --features`",
    )
    public: str | None = Field(
        default=None,
        min_length=1,
        description="images that anyone may see, like the private ones, which scale the features: as "
        "data.path; null: 2,000 that the base draws",
    )
    dimensions: int = Field(
        default=128, ge=8, le=1024, description="directions of the features that are kept"
    )
    share: float = Field(
        default=0.3, gt=0, lt=1, description="of budget.epsilon that the query would cost alone"
    )

    @field_validator("features")
    @classmethod
    def _known(cls, name: str) -> str:
        from dp_diffusers.evaluation.features import EXTRACTORS

        if name in EXTRACTORS:
            return name
        close = nearest(name, EXTRACTORS)
        raise RefusedValueError(
            f"expected teacher.features to be one of {', '.join(EXTRACTORS)}, got {shown(name)}",
            f"did you mean {close!r}?" if close else None,
        )
