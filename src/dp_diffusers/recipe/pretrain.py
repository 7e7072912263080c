"""The recipe of a public pre-training: the model to build, the public images, the steps.

Guarantees a model whose shape is consistent (every resolution divides) before anything is built.
May import pydantic and PyYAML; never numpy, never torch. Source: the recipe
contract of the design.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dp_diffusers.recipe.file import differing_keys, read, validate
from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections import DEVICES, MOST_ROWS, MOST_STEPS, SEEDS, Timesteps
from dp_diffusers.recipe.yaml_lines import dump


class ModelSettings(Section):
    """A class-conditional pixel model."""

    size: int = Field(default=28, ge=4, le=1024, description="height and width of an image in pixels")
    channels: Literal[1, 3] = Field(default=1, description="1 grey, 3 colour")
    patch: Literal[1, 2, 4, 8] = Field(default=2, description="pixels folded into channels; 1 is none")
    widths: list[int] = Field(default=[32, 64], min_length=1, description="channels of each resolution")
    layers: int = Field(default=1, ge=1, le=64, description="residual blocks per resolution")
    attention: list[bool] = Field(default=[False, True], min_length=1, description="attention per resolution")
    prediction: Literal["v_prediction", "epsilon"] = Field(
        default="v_prediction", description="training target"
    )
    schedule: Literal["squaredcos_cap_v2", "linear"] = Field(
        default="squaredcos_cap_v2", description="noise schedule"
    )
    train_steps: int = Field(default=1000, ge=10, le=10**6, description="noise levels of the schedule")
    norm_groups: int = Field(default=8, ge=1, le=10**4, description="groups of each group normalisation")
    attention_head_dim: int = Field(default=16, ge=1, le=10**4, description="channels of an attention head")

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelSettings:
        if len(self.attention) != len(self.widths):
            raise RefusedValueError(
                f"expected model.attention to have {len(self.widths)} items, one per width",
                "model.widths and model.attention are lists of equal length",
            )
        divisor = self.patch * 2 ** (len(self.widths) - 1)
        if self.size % divisor:
            hint = "change size, patch or the number of widths"
            raise RefusedValueError(
                f"expected model.size to be a multiple of {divisor}, got {self.size}", hint
            )
        for width, attends in zip(self.widths, self.attention):
            self._check_width(width, attends)
        return self

    def _check_width(self, width: int, attends: bool) -> None:
        if width < 1 or width % self.norm_groups:
            raise RefusedValueError(
                f"expected model.widths to be multiples of norm_groups = {self.norm_groups}, got {width}",
                "change model.widths or model.norm_groups",
            )
        if attends and width % self.attention_head_dim:
            head = self.attention_head_dim
            raise RefusedValueError(
                f"expected model.widths with attention to be multiples of {head}, got {width}",
                "change model.widths or model.attention_head_dim",
            )


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
    """Public images from a folder or a parquet file."""

    source: Literal["files"]
    path: str = Field(min_length=1, description="folder or parquet file")
    label: str | None = Field(default="label", description="label column, `folder`, or null")
    weight: float = Field(
        default=1.0, gt=0, le=1e9, description="share of this source in a batch, before normalising"
    )
    keep_labels: bool = Field(default=True, description="false makes the whole source one extra class")
    invert: bool = Field(default=False, description="swap ink and paper")


PublicSource = Annotated[DrawnDigitsSource | FilesSource, Field(discriminator="source")]


class PretrainTraining(Section):
    """How the public model is trained."""

    steps: int = Field(default=4000, ge=1, le=MOST_STEPS, description="optimiser steps")
    batch_size: int = Field(default=128, ge=1, le=MOST_ROWS, description="images per step")
    learning_rate: float = Field(
        default=1.5e-3, gt=0, le=1e3, description="highest learning rate (cosine to zero)"
    )
    ema: float = Field(default=0.999, ge=0, lt=1, description="averaging of weights per step; 0 is off")
    label_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of images trained without label")
    warmup_steps: int = Field(
        default=200, ge=0, le=MOST_STEPS, description="steps until the learning rate is reached"
    )
    timesteps: Timesteps = Field(default="uniform", description="distribution of the noise level")
    seed: int = Field(default=0, ge=0, le=SEEDS, description="initial weights, order of images, noise")
    save_every_seconds: float = Field(default=60, gt=0, le=1e9, description="seconds between checkpoints")


class PretrainRuntime(Section):
    """Where it runs; may change on resume."""

    device: str = Field(default="auto", pattern=DEVICES, description="auto, cpu, cuda, mps")
    threads: int | None = Field(
        default=None, ge=1, le=4096, description="processor threads; null: torch's choice"
    )


class PretrainRecipe(Section):
    """A public pre-training."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    data: list[PublicSource] = Field(min_length=1, description="a list of one or several public sources")
    autoencoder: None = Field(default=None, description="none in this version: patch folds pixels instead")
    training: PretrainTraining = Field(default_factory=PretrainTraining)
    runtime: PretrainRuntime = Field(default_factory=PretrainRuntime)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        sections = {"model", "training", "runtime"}
        return {key: {} if part is None and key in sections else part for key, part in value.items()}

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> PretrainRecipe:
        """The recipe in a YAML (or JSON) file, its paths made absolute.

        Raises: `RecipeError` with all problems of the file.
        """
        recipe = validate(cls, read(path, overrides))
        return recipe.resolved(Path(path).resolve().parent)

    def resolved(self, folder: Path) -> PretrainRecipe:
        """The same recipe with paths relative to `folder` made absolute."""
        sources = [
            item.model_copy(update={"path": str(folder / item.path)})
            if isinstance(item, FilesSource)
            else item
            for item in self.data
        ]
        return self.model_copy(update={"data": sources})

    def sources(self) -> list[dict[str, Any]]:
        """The public sources as plain mappings, one per item of `data`."""
        return [item.model_dump() for item in self.data]

    def resolved_yaml(self) -> str:
        """Every key with its value, as YAML; loading it gives an equal recipe."""
        return dump(self.model_dump())

    def differences(self, other: PretrainRecipe, ignoring: str = "runtime.") -> list[str]:
        """Dotted keys whose values differ, in the order of the recipe, without those below `ignoring`."""
        return differing_keys(self.model_dump(), other.model_dump(), ignoring)
