"""The list `data` of a public pre-training: where public images come from.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. A new kind of source is a class here and a line in `data.public_images`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dp_diffusers.recipe.problems import Section


class DrawnDigitsSource(Section):
    """Digits drawn by this package: strokes and fonts."""

    source: Literal["drawn_digits"]
    count: int = Field(default=60_000, ge=10, le=10**8, description="images to draw")
    fonts: float = Field(default=0.2, ge=0, le=1, description="share drawn from fonts instead of strokes")
    frame: Literal["mnist", "tight"] = Field(default="mnist", description="how a digit sits in its frame")
    scan: int | None = Field(default=None, ge=4, le=128, description="scanned at this size, then enlarged")
    weight: float = Field(
        default=1.0, gt=0, le=1e9, description="share of this source in a batch, before normalising"
    )


class FilesSource(Section):
    """Public images from files: any kind that `data.path` of a fine-tuning takes."""

    source: Literal["files"]
    path: str = Field(min_length=1, description="a folder, a parquet file, a manifest or hf://owner/name")
    label: str | None = Field(
        default="label",
        description="label column, or `folder`; of a folder of pictures `label` is its class folders; null: "
        "no labels, the whole source is one class",
    )
    weight: float = Field(
        default=1.0, gt=0, le=1e9, description="share of this source in a batch, before normalising"
    )
    keep_labels: bool = Field(default=True, description="false makes the whole source one extra class")
    invert: bool = Field(default=False, description="swap ink and paper")


PublicSource = Annotated[DrawnDigitsSource | FilesSource, Field(discriminator="source")]
