"""The section `budget` of a recipe: what may be spent, and where it is written down.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. The keys mirror the recipe contract of the design.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dp_diffusers.recipe.problems import Section


class CapSettings(Section):
    """The limit of a data set over all of its runs."""

    epsilon: float = Field(ge=0.01, le=100, description="limit of the sum over runs")
    delta: float = Field(
        default=1e-5,
        gt=1e-15,
        lt=1,
        description="limit of the sum over runs, below 1/population; the budget's where it is left out",
    )


class BudgetSettings(Section):
    """What may be spent, and where it is written down."""

    epsilon: float = Field(ge=0.01, le=100, description="privacy loss of this run at most; smaller is safer")
    delta: float = Field(gt=1e-15, lt=1, description="must be below 1/population")
    unit: str = Field(
        default="image",
        min_length=1,
        description="`image`, or the column that names a person: of the table (lists, where images show "
        "several), of the folder's metadata.csv, or of DICOM files a keyword such as PatientID",
    )
    adjacency: Literal["add_remove", "zero_out", "replace"] = Field(
        default="add_remove",
        description="what neighbouring data sets differ by: one unit's presence, its images against none "
        "(`zero_out`), or its images against any others (`replace`, about twice the epsilon)",
    )
    ledger: str | None = Field(
        default=None, min_length=1, description="ledger of the data set; null: beside data.path"
    )
    cap: CapSettings | None = Field(
        default=None,
        description="limit of the data set over all runs, which the first run of a ledger fixes (default: "
        "that of the ledger, or this budget where it begins one); null: no limit",
    )

    @model_validator(mode="before")
    @classmethod
    def _delta_of_the_cap(cls, value: Any) -> Any:
        """A cap without delta has the budget's."""
        cap = value.get("cap") if isinstance(value, dict) else None
        delta = value.get("delta") if isinstance(value, dict) else None
        if isinstance(cap, dict) and "delta" not in cap and isinstance(delta, float) and 1e-15 < delta < 1:
            return {**value, "cap": {**cap, "delta": delta}}
        return value

    @model_validator(mode="after")
    def _cap_is_the_budget(self) -> BudgetSettings:
        if "cap" not in self.model_fields_set:
            cap = CapSettings(epsilon=self.epsilon, delta=self.delta)
            object.__setattr__(self, "cap", cap)
        return self
