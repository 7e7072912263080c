"""What `plan` says of the ledger that a recipe names: whether a new run would find room in it.

Guarantees that the ledger is read only, and that no image is opened. May import the ledger inside functions.
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
    from dp_diffusers.privacy.ledger import Ledger

    try:
        with Ledger.open(path, create=False) as ledger:
            if (terms := ledger.terms) is None:
                return None
            ledger.require_room(plan)
            cap = "no cap" if terms.cap is None else f"a cap of {terms.cap.epsilon:g}"
            return (
                f"the ledger {path} stands at epsilon {rounded_up_text(ledger.spent().epsilon)}, with {cap}"
            )
    except (BudgetError, LedgerError) as error:
        return f"a new run would be refused: {error.message}"
