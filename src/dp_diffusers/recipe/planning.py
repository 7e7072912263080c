"""From a recipe's budget and mechanism to the calibrated plan.

Guarantees that the command line and the training loop get the same plan from the same recipe. May import
privacy/, mechanisms/ and plan; never torch. Source: the `Plan` section of the design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dp_diffusers.errors import BudgetError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.evolution import PE
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import SAME_AS_BUDGET, Budget, Cap
from dp_diffusers.recipe.queries import queries_of, require_base_classes
from dp_diffusers.rounding import rounded_up_text

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe
    from dp_diffusers.recipe.sections import MechanismSettings


def budget_of(recipe: Recipe) -> Budget:
    """The budget of a recipe, with its cap (None: recorded without limit)."""
    settings = recipe.budget
    limit = settings.cap
    cap = None if limit is None else Cap(epsilon=limit.epsilon, delta=limit.delta)
    written = "cap" in settings.model_fields_set
    return Budget(
        epsilon=settings.epsilon,
        delta=settings.delta,
        unit=settings.unit,
        adjacency=settings.adjacency,
        cap=cap if written else SAME_AS_BUDGET,
    )


def plan_of(recipe: Recipe) -> Plan:
    """Calibrates the plan of a recipe; the mechanism `none` gives a plan that says it is not private.

    Raises: `BudgetError` where no usable noise meets the budget, or the cap has no room for it;
    `ParameterError` for numbers out of range, or classes that the base does not have.
    """
    require_base_classes(recipe)
    settings = recipe.mechanism
    sizes = {
        "steps": settings.steps,
        "expected_units": settings.expected_units,
        "population": settings.population,
    }
    if settings.name == "none":
        return Plan.calibrate(None, NonPrivate(**sizes))
    mechanism = _private(settings)
    budget = budget_of(recipe)
    plan = Plan.calibrate(budget, mechanism, queries_of(recipe, budget, mechanism))
    _require_room(plan, budget)
    return plan


def _private(settings: MechanismSettings) -> DPSGD | PE:
    if settings.name == "pe":
        return PE(steps=settings.steps, population=settings.population)
    return DPSGD(
        steps=settings.steps,
        expected_units=settings.expected_units,
        population=settings.population,
        clip_norm=settings.clip_norm,
        clipping=settings.clipping,
        max_units=settings.max_units,
        target_quantile=settings.target_quantile,
        quantile_rate=settings.quantile_rate,
        quantile_noise=settings.quantile_noise,
    )


def _require_room(plan: Plan, budget: Budget) -> None:
    """Raises `BudgetError` for a plan that its own cap could never admit."""
    cap = budget.cap
    if cap is None or (plan.epsilon <= cap.epsilon and budget.delta <= cap.delta):
        return
    from dp_diffusers.privacy import accountant

    alone = accountant.epsilon(plan.records, cap.delta, budget.adjacency)
    if alone > cap.epsilon:
        raise BudgetError(
            f"this run alone would spend epsilon {rounded_up_text(alone)} at delta {cap.delta:g}, above "
            f"budget.cap.epsilon {cap.epsilon:g}",
            hint="lower budget.epsilon; or raise budget.cap, which the first run of a ledger fixes for good",
        )
