"""The section `data` of a recipe: the private images.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dp_diffusers.classes.base_classes import misfit
from dp_diffusers.data.caption_template import needs_label, require_known_fields
from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import DataError
from dp_diffusers.recipe.problems import RefusedValueError, Section

TABLES = (".parquet", ".pq", ".csv", ".tsv")  # their labels are a column


class DataSettings(Section):
    """The private images."""

    path: str = Field(
        min_length=1,
        description="private images: a folder (pictures, DICOM, parquet files, or what `save_to_disk` "
        "wrote), a parquet file, a manifest (.csv, .tsv), or hf://owner/name[:split]",
    )
    label: str | None = Field(
        description="`folder` (class folders), a label column (of DICOM files a keyword), null (no labels), "
        "or `auto`: class folders of a folder, none of DICOM files, else the column `label`"
    )
    classes: list[str] | None = Field(
        default=None,
        description="class names in order; null: those of the base, whose names text labels then carry",
    )
    base_classes: list[str | int] | None = Field(
        default=None,
        description="for each of data.classes the class of the base that it starts from, a name or a number "
        "from 0; null goes by name, or by position where no name is shared",
    )
    caption: str | None = Field(
        default=None,
        description="text of every image, in which {label} is its class name: `chest x-ray, {label}`; for "
        "bases that take captions",
    )
    caption_column: str | None = Field(
        default=None,
        min_length=1,
        description="column that holds a text for each image, private (of DICOM files a keyword), instead of "
        "data.caption",
    )
    size: int | None = Field(
        default=None,
        ge=1,
        le=2**16,
        description="side of the images in pixels that a latent model is trained on; null: the base's own",
    )
    resize: Literal["fit", "crop"] | None = Field(
        default=None,
        description="`fit` pads, `crop` cuts to a square of the model's size; null resizes square images of "
        "one other size and says so; mixed sizes are refused",
    )
    window: list[float] | None = Field(
        default=None,
        description="[center, width] of the values of DICOM images that become black to white; null takes "
        "each file's own window, else the range of its stored bits; without DICOM images it is refused",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_label(cls, value: Any) -> Any:
        if isinstance(value, dict) and "label" not in value:
            path = str(value.get("path", ""))
            column = is_hub(path) or Path(path).suffix.lower() in TABLES
            return {**value, "label": "label" if column else "auto"}
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and (not names or len(set(names)) < len(names) or "" in names):
            raise RefusedValueError(
                "expected data.classes to be distinct names, at least one", "null takes the base's"
            )
        return names

    @field_validator("base_classes", mode="before")
    @classmethod
    def _one_for_each_class(cls, entries: Any, info: ValidationInfo) -> Any:
        wrong = None
        if entries is not None and "classes" in info.data:
            wrong = misfit(entries, info.data["classes"])
        if wrong is not None:
            raise RefusedValueError(*wrong)
        return entries

    @field_validator("caption")
    @classmethod
    def _fillable(cls, caption: str | None, info: ValidationInfo) -> str | None:
        if caption is None:
            return None
        try:
            require_known_fields(caption)
        except DataError as error:
            raise RefusedValueError(error.message, error.hint) from error
        if needs_label(caption) and info.data.get("label", "") is None:
            raise RefusedValueError(
                "the caption needs {label}, but there are no labels (data.label: null)",
                "name the column that holds the classes, or leave {label} out",
            )
        return caption

    @field_validator("caption_column")
    @classmethod
    def _only_caption(cls, column: str | None, info: ValidationInfo) -> str | None:
        if column is not None and info.data.get("caption") is not None:
            raise RefusedValueError(
                f"expected one of data.caption and data.caption_column, got both, {column!r} too",
                "data.caption is one text or template for all images, caption_column holds a text for each",
            )
        return column

    @field_validator("window")
    @classmethod
    def _wide(cls, window: list[float] | None) -> list[float] | None:
        if window is not None and not (len(window) == 2 and window[1] > 0):
            raise RefusedValueError(
                f"expected data.window to be [center, width] with a width above 0, got {window}",
                "in units of the rescaled values, such as [40, 400] for soft tissue in CT",
            )
        return window
