"""The section `teacher` of a recipe: a classifier of public features that a run pays for and releases.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch at the top. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import ParameterError, nearest
from dp_diffusers.recipe.problems import RefusedValueError, Section, shown


class TeacherSettings(Section):
    """A classifier of public features, made of sums with noise; `{}` takes the defaults."""

    features: str = Field(
        default="efficientnet-lite0-64",
        description="public features of an image: a name as in `evaluate --features`, or the folder of a "
        "`pretrain` with a section `features`",
    )
    public: str | None = Field(
        default=None,
        min_length=1,
        description="images that anyone may see, like the private ones, which scale the features and make "
        "the clusters: as data.path; null: 2,000 that a model draws, or five for each cluster",
    )
    drawn_by: Literal["base", "trained"] = Field(
        default="base",
        description="who draws those images where `public` is null: `base`, before it is trained, and the "
        "query is asked before the first step; `trained`, the model after its last step, and the query is "
        "asked then",
    )
    dimensions: int = Field(
        default=128, ge=8, le=1024, description="directions of the features that are kept"
    )
    clusters: int | None = Field(
        default=None,
        ge=10,
        le=20_000,
        description="groups of those images in which units are counted by class: the counts give the "
        "labels, and `generation.candidates` can draw images as the units are spread; null: a linear "
        "classifier",
    )
    share: float = Field(
        default=0.3, gt=0, lt=1, description="of budget.epsilon that the query would cost alone"
    )

    @field_validator("features")
    @classmethod
    def _known(cls, name: str) -> str:
        """A word that is nearly the name of an extractor is no folder."""
        from dp_diffusers.evaluation.features import EXTRACTORS

        close = None if name in EXTRACTORS else nearest(name, EXTRACTORS)
        if close is not None:
            raise RefusedValueError(
                f"expected teacher.features to be a folder or {', '.join(EXTRACTORS)}, got {shown(name)}",
                f"did you mean {close!r}?",
            )
        return name

    @field_validator("drawn_by")
    @classmethod
    def _drawn_at_all(cls, who: str, info: ValidationInfo) -> str:
        if who == "trained" and info.data.get("public") is not None:
            raise RefusedValueError(
                "expected teacher.drawn_by to be base, since teacher.public is given; got 'trained'",
                "leave one of them out: given images stand in the place of drawn ones",
            )
        return who

    def require_there(self) -> None:
        """Raises `ParameterError` for features that are no extractor and lie nowhere."""
        from dp_diffusers.evaluation.features import EXTRACTORS, own_network

        if self.features not in EXTRACTORS and own_network(self.features) is None:
            raise ParameterError(
                f"teacher.features: {self.features} is not there",
                hint=f"one of {', '.join(EXTRACTORS)}, or the folder of a pretrain with a section features",
            )

    def placed(self, folder: Path) -> TeacherSettings:
        """The same settings, with paths relative to `folder` made absolute."""
        from dp_diffusers.evaluation.features import EXTRACTORS

        public = self.public if self.public is None or is_hub(self.public) else str(folder / self.public)
        features = self.features if self.features in EXTRACTORS else str(folder / self.features)
        return self.model_copy(update={"public": public, "features": features})
