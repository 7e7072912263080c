"""What `plan` says of the ledger that a recipe names: whether a new run would find room in it.

Guarantees that no entry is written, and that no image is opened. May import the ledger inside functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dp_diffusers.errors import BudgetError, LedgerError
from dp_diffusers.rounding import rounded_up_text

if TYPE_CHECKING:
    from dp_diffusers.plan import Plan
    from dp_diffusers.recipe import Recipe


def ledger_note(recipe: Recipe, plan: Plan) -> str | None:
    """One line; None for a run without privacy, and where no run has begun the ledger."""
    path = recipe.budget.ledger
    if plan.not_private or path is None or not Path(path).is_file():
        return None
    from dp_diffusers.privacy.cap_words import epsilon_at
    from dp_diffusers.privacy.ledger import Ledger

    try:
        ledger = Ledger.open(path, create=False, busy_seconds=0.5)
    except LedgerError as error:
        return f"the ledger cannot be read now: {error.message}"
    with ledger:
        if (terms := ledger.terms) is None:
            return None
        try:
            ledger.require_room(plan)
        except (BudgetError, LedgerError) as error:
            return f"a new run would be refused: {error.message}"
        spent, cap = ledger.spent(), terms.cap
        stands = epsilon_at(rounded_up_text(spent.epsilon), spent.delta)
        limit = "no cap" if cap is None else f"a cap of {epsilon_at(f'{cap.epsilon:g}', cap.delta)}"
        return f"the ledger {path} stands at {stands}, with {limit}"
