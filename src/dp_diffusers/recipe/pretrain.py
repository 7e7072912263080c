"""The recipe of a public pre-training: the model to build, the public images, the steps.

Guarantees a model whose parts fit each other before anything is built. May import pydantic and PyYAML; never
numpy, never torch. Source: the recipe contract of the design.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from dp_diffusers.data.sources import is_hub
from dp_diffusers.recipe.file import differing_keys, read, validate
from dp_diffusers.recipe.pretrain_data import DrawnDigitsSource, FilesSource, PublicSource
from dp_diffusers.recipe.pretrain_model import AutoencoderSettings, FeaturesSettings, ModelSettings
from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections import DEVICES, MOST_ROWS, MOST_STEPS, SEEDS, Timesteps
from dp_diffusers.recipe.yaml_lines import dump

__all__ = [
    "AutoencoderSettings",
    "DrawnDigitsSource",
    "FeaturesSettings",
    "FilesSource",
    "ModelSettings",
    "PretrainRecipe",
    "PretrainRuntime",
    "PretrainTraining",
]


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
    flip: bool = Field(default=False, description="mirror half of the images; not for letters and digits")
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
    autoencoder: AutoencoderSettings | None = Field(
        default=None, description="null: the model works on pixels, or on patches of them"
    )
    features: FeaturesSettings | None = Field(
        default=None, description="a feature network in place of a diffusion model; null: a diffusion model"
    )
    training: PretrainTraining = Field(default_factory=PretrainTraining)
    runtime: PretrainRuntime = Field(default_factory=PretrainRuntime)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """Empty sections are their defaults; some defaults follow from other keys."""
        if not isinstance(value, dict):
            return value
        if value.get("features") is not None:
            return _of_features(value)
        sections = {"model", "training", "runtime"}
        filled = {key: {} if part is None and key in sections else part for key, part in value.items()}
        model, training = filled.get("model", {}), filled.get("training", {})
        if filled.get("autoencoder") is not None and isinstance(model, dict):
            filled["model"] = model = {"patch": 1, **model}
        unconditional = isinstance(model, dict) and model.get("conditional", True) is False
        if unconditional and isinstance(training, dict):
            filled["training"] = {"label_dropout": 0.0, **training}
        return filled

    @property
    def shape(self) -> tuple[int, int]:
        """(size, channels) of the public images."""
        made = self.model if self.features is None else self.features
        return made.size, made.channels

    @model_validator(mode="after")
    def _parts_fit(self) -> PretrainRecipe:
        if self.autoencoder is not None and self.model.patch != 1:
            raise RefusedValueError(
                f"expected model.patch to be 1 with an autoencoder, got {self.model.patch}",
                "the autoencoder makes the image smaller: leave model.patch out",
            )
        if self.autoencoder is not None:
            self.model.require_divisible(
                self.autoencoder.factor, "change size, autoencoder.factor or the number of widths"
            )
        if not self.model.conditional and self.training.label_dropout:
            raise RefusedValueError(
                "training.label_dropout has no effect without class embeddings",
                "leave it out, or set model.conditional to true",
            )
        return self

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
            if isinstance(item, FilesSource) and not is_hub(item.path)
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


def _of_features(value: dict[str, Any]) -> dict[str, Any]:
    """The sections of a recipe for features. Raises `RefusedValueError` for keys of diffusion models."""
    made = ModelSettings().model_dump(mode="json")
    model = value.get("model") or {}  # one that was recorded has all of its defaults, or those of its time
    if not (isinstance(model, dict) and made | model == made) or value.get("autoencoder") is not None:
        raise RefusedValueError("model and autoencoder have no effect beside features", "leave them out")
    training = value.get("training") or {}
    for key in ("timesteps", "label_dropout"):
        usual = PretrainTraining.model_fields[key].default
        if isinstance(training, dict) and training.get(key, usual) != usual:
            raise RefusedValueError(f"training.{key} has no effect beside features", "leave it out")
    return {**{key: {} if part is None else part for key, part in value.items()}, "autoencoder": None}
