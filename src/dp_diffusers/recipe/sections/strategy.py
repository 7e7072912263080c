"""The section `strategy` of a recipe: which parameters are trained.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from dp_diffusers.recipe.problems import RefusedValueError, Section, shown
from dp_diffusers.recipe.sections.limits import MOST_ROWS

Target = Literal["attention", "linear", "convolution", "all"]


def _targets(value: object) -> object:
    """`attention`, `linear`, `convolution`, `all`, or a list of module name endings."""
    known = get_args(Target)
    if isinstance(value, str) and value in known:
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return value
    message = (
        f"expected strategy.targets to be one of {', '.join(known)}, or a list of names, got {shown(value)}"
    )
    raise RefusedValueError(message, "a list holds endings of module names, as in [to_q, to_v]")


class StrategySettings(Section):
    """Which parameters are trained."""

    name: Literal["lora"] = Field(default="lora", description="fine-tuning strategy")
    rank: int = Field(default=8, ge=1, le=MOST_ROWS, description="rank of the adapters")
    alpha: float | None = Field(
        default=None, gt=0, le=1e6, description="scale of the adapters; null: the rank"
    )
    targets: Annotated[Target | list[str], BeforeValidator(_targets)] = Field(
        default="attention", description="attention, linear, convolution, all, or endings of module names"
    )
    freeze_a: bool = Field(default=False, description="train only the B half of each adapter")
    also: list[Literal["bias", "norm", "embedding"]] = Field(
        default_factory=list, description="trained besides the adapters: bias, norm, embedding"
    )
