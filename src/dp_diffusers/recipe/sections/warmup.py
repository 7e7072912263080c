"""The section `warmup` of a recipe: learning from charged means and spreads before the first step.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from pydantic import Field

from dp_diffusers.recipe.problems import Section


class WarmupSettings(Section):
    """Training without noise on blurred images of charged means and spreads; `{}` takes the defaults."""

    dimensions: int = Field(
        default=128, ge=8, le=1024, description="coarse numbers of an image that are asked about"
    )
    share: float = Field(
        default=0.2, gt=0, lt=1, description="of budget.epsilon that the query would cost alone"
    )
    images: int = Field(default=4000, ge=1, le=1_000_000, description="blurred images to draw, in all")
    steps: int = Field(default=400, ge=1, le=1_000_000, description="steps on them")
    batch_size: int = Field(default=64, ge=1, le=100_000, description="of them in a step")
    learning_rate: float = Field(default=3.0e-3, gt=0, le=10, description="of these steps, with Adam")
