"""From a recipe's budget and mechanism to the calibrated plan.

Guarantees that the command line and the training loop get the same plan from the same recipe. May import
privacy/, mechanisms/ and plan; never torch. Source: the `Plan` section of the design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dp_diffusers.errors import InputError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget, Cap

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe


def budget_of(recipe: Recipe) -> Budget:
    """The budget of a recipe, with its cap (None: recorded without limit)."""
    settings = recipe.budget
    cap = settings.cap and Cap(epsilon=settings.cap.epsilon, delta=settings.cap.delta)
    return Budget(
        epsilon=settings.epsilon,
        delta=settings.delta,
        unit=settings.unit,
        adjacency=settings.adjacency,
        cap=cap,
    )


def plan_of(recipe: Recipe) -> Plan:
    """Calibrates the plan of a recipe. Raises: `InputError` for the non-private mechanism."""
    settings = recipe.mechanism
    if settings.name == "none":
        hint = "mechanism.name: dpsgd is the private one"
        raise InputError("mechanism.name: none is not private: there is no plan to make", hint=hint)
    mechanism = DPSGD(
        steps=settings.steps,
        expected_units=settings.expected_units,
        population=settings.population,
        clip_norm=settings.clip_norm,
        clipping=settings.clipping,
        max_units=settings.max_units,
    )
    return Plan.calibrate(budget_of(recipe), mechanism)
