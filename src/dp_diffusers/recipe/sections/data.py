"""The section `data` of a recipe: the private images.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections.limits import NO_CAPTIONS, only

PARQUET_SUFFIXES = (".parquet", ".pq")


class DataSettings(Section):
    """The private images."""

    path: str = Field(min_length=1, description="private images: a folder or a parquet file")
    label: str | None = Field(
        description="`folder` (class folders), a label column, null (no labels), or `auto`: the column "
        "`label` of parquet files, else class folders"
    )
    classes: list[str] | None = Field(
        default=None,
        description="class names in order; null takes them from the data, and the certificate says so",
    )
    caption: Annotated[str | None, only("data.caption", None, NO_CAPTIONS)] = Field(
        default=None, description="caption of an image: null in this version"
    )
    resize: Literal["fit", "crop"] | None = Field(
        default=None,
        description="`fit` pads, `crop` cuts to a square of the model's size; null resizes square images of "
        "one other size and says so; mixed sizes are refused",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_label(cls, value: Any) -> Any:
        if isinstance(value, dict) and "label" not in value:
            suffix = Path(str(value.get("path", ""))).suffix.lower()
            return {**value, "label": "label" if suffix in PARQUET_SUFFIXES else "auto"}
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and (not names or len(set(names)) < len(names) or "" in names):
            raise RefusedValueError(
                "expected data.classes to be distinct names, at least one", "null takes the data's"
            )
        return names
