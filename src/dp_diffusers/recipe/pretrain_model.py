"""The sections `model`, `autoencoder` and `features` of a public pre-training.

Guarantees that every resolution divides and every width fits its groups, before anything is built. May import
pydantic; never numpy, never torch. Source: the recipe contract of the design.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, model_validator

from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections import MOST_ROWS, MOST_STEPS


class ModelSettings(Section):
    """A diffusion model of pixels, or of the latents of an autoencoder."""

    size: int = Field(default=28, ge=4, le=1024, description="height and width of an image in pixels")
    channels: Literal[1, 3] = Field(default=1, description="1 grey, 3 colour")
    conditional: bool = Field(
        default=True, description="class embeddings; false learns images without labels"
    )
    patch: Literal[1, 2, 4, 8] = Field(
        default=2, description="pixels folded into channels; 1 is none, and the default with an autoencoder"
    )
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
        self.require_divisible(self.patch, "change size, patch or the number of widths")
        check_widths("model", self.widths, self.norm_groups)
        for width, attends in zip(self.widths, self.attention):
            self._check_head(width, attends)
        return self

    def require_divisible(self, factor: int, hint: str) -> None:
        """Raises `RefusedValueError` unless images shrunk by `factor` can be halved for each width."""
        divisor = factor * 2 ** (len(self.widths) - 1)
        if self.size % divisor:
            raise RefusedValueError(
                f"expected model.size to be a multiple of {divisor}, got {self.size}", hint
            )

    def _check_head(self, width: int, attends: bool) -> None:
        if attends and width % self.attention_head_dim:
            head = self.attention_head_dim
            raise RefusedValueError(
                f"expected model.widths with attention to be multiples of {head}, got {width}",
                "change model.widths or model.attention_head_dim",
            )


class AutoencoderSettings(Section):
    """An autoencoder in front of the model, trained first on the same public images."""

    kind: Literal["kl", "vq"] = Field(default="kl", description="kl: Gaussian latents; vq: a codebook")
    factor: Literal[2, 4, 8] = Field(default=2, description="pixels along the side of one latent position")
    latent_channels: int = Field(default=4, ge=1, le=64, description="channels of a latent")
    widths: list[int] = Field(
        default=[16, 32], description="channels of each resolution; one more than halvings"
    )
    layers: int = Field(default=1, ge=1, le=16, description="residual blocks per resolution")
    norm_groups: int = Field(default=8, ge=1, le=10**4, description="groups of each group normalisation")
    kl_weight: float = Field(
        default=1e-3, ge=0, le=1e3, description="kl: pull of the latents to a standard normal, per pixel"
    )
    codebook: int = Field(default=512, ge=2, le=10**6, description="vq: number of codes")
    detail_weight: float = Field(
        default=1.0, ge=0, le=1e3, description="loss on differences of neighbouring pixels at three scales"
    )
    steps: int = Field(default=2000, ge=1, le=MOST_STEPS, description="optimiser steps")
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="images per step")
    learning_rate: float = Field(
        default=2e-3, gt=0, le=1e3, description="highest learning rate (cosine to zero)"
    )
    warmup_steps: int = Field(
        default=100, ge=0, le=MOST_STEPS, description="steps until the learning rate is reached"
    )
    ema: float = Field(default=0.995, ge=0, lt=1, description="averaging of weights per step; 0 is off")

    @model_validator(mode="before")
    @classmethod
    def _widths_of_the_factor(cls, value: Any) -> Any:
        """Without widths: 16 channels, doubled with each halving."""
        if not isinstance(value, dict) or "widths" in value or value.get("factor", 2) not in (2, 4, 8):
            return value
        halvings = int(value.get("factor", 2)).bit_length() - 1
        return {**value, "widths": [16 * 2**level for level in range(halvings + 1)]}

    @model_validator(mode="after")
    def _consistent(self) -> AutoencoderSettings:
        halvings = self.factor.bit_length() - 1
        if len(self.widths) != halvings + 1:
            raise RefusedValueError(
                f"expected autoencoder.widths to have {halvings + 1} items for factor {self.factor}, "
                f"got {len(self.widths)}",
                "each width after the first halves the image",
            )
        check_widths("autoencoder", self.widths, self.norm_groups)
        other = {"kl": "codebook", "vq": "kl_weight"}[self.kind]
        if getattr(self, other) != AutoencoderSettings.model_fields[other].default:
            raise RefusedValueError(
                f"autoencoder.{other} has no effect with kind {self.kind}",
                f"leave it out, or set autoencoder.kind to {'vq' if self.kind == 'kl' else 'kl'}",
            )
        return self


class FeaturesSettings(Section):
    """A network that tells public classes apart, for its features; in place of a diffusion model."""

    size: int = Field(default=28, ge=4, le=1024, description="height and width of an image in pixels")
    channels: Literal[1, 3] = Field(default=1, description="1 grey, 3 colour")
    widths: list[int] = Field(
        default=[32, 64, 128],
        min_length=1,
        description="channels; each halves the image, the last is how many features there are",
    )
    blocks: int = Field(default=1, ge=1, le=64, description="residual blocks per width")
    norm_groups: int = Field(default=8, ge=1, le=10**4, description="groups of each group normalisation")

    @model_validator(mode="after")
    def _shapes_fit(self) -> FeaturesSettings:
        check_widths("features", self.widths, self.norm_groups)
        if self.size < 2 ** len(self.widths):
            raise RefusedValueError(
                f"images of {self.size} pixels cannot be halved {len(self.widths)} times",
                "fewer features.widths",
            )
        return self


def check_widths(section: str, widths: Iterable[int], groups: int) -> None:
    """Raises `RefusedValueError` for a width that cannot be normalised in `groups` groups."""
    for width in widths:
        if width < 1 or width % groups:
            raise RefusedValueError(
                f"expected {section}.widths to be multiples of norm_groups = {groups}, got {width}",
                f"change {section}.widths or {section}.norm_groups",
            )
