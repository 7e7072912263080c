"""The recipe of a private fine-tuning: every key, its default, its range, and what it is for.

Guarantees that a recipe which loads is complete and consistent, and that its errors point at lines.
May import pydantic and PyYAML; numpy, torch and the images are never touched. The keys mirror the recipe
contract of the design; each field's description is the only source of help texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dp_diffusers.data.sources import is_hub
from dp_diffusers.recipe.checks import cross_checks, default_delta
from dp_diffusers.recipe.file import differing_keys, read, validate
from dp_diffusers.recipe.pretrain import (
    AutoencoderSettings,
    DrawnDigitsSource,
    FeaturesSettings,
    FilesSource,
    ModelSettings,
    PretrainRecipe,
    PretrainRuntime,
    PretrainTraining,
)
from dp_diffusers.recipe.problems import RefusedValueError, Section
from dp_diffusers.recipe.sections import (
    AuditSettings,
    BudgetSettings,
    DataSettings,
    GenerationSettings,
    MechanismSettings,
    RuntimeSettings,
    StrategySettings,
    TeacherSettings,
    TrainingSettings,
    WarmupSettings,
)
from dp_diffusers.recipe.yaml_lines import dump
from dp_diffusers.run.ledger_place import default_ledger

if TYPE_CHECKING:
    from dp_diffusers.plan import Plan

__all__ = [
    "AuditSettings",
    "AutoencoderSettings",
    "BudgetSettings",
    "DataSettings",
    "DrawnDigitsSource",
    "FeaturesSettings",
    "FilesSource",
    "GenerationSettings",
    "MechanismSettings",
    "ModelSettings",
    "PretrainRecipe",
    "PretrainRuntime",
    "PretrainTraining",
    "Recipe",
    "RuntimeSettings",
    "StrategySettings",
    "TeacherSettings",
    "TrainingSettings",
    "WarmupSettings",
    "base_here",
    "default_delta",
    "default_ledger",
    "defaulted",
]


class Recipe(Section):
    """A private fine-tuning."""

    base: str = Field(min_length=1, description="public model: a diffusers folder or a hub id")
    data: DataSettings
    budget: BudgetSettings
    mechanism: MechanismSettings
    strategy: StrategySettings = Field(default_factory=StrategySettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    teacher: TeacherSettings | None = Field(
        default=None,
        description="a classifier of public features that the run pays for, releases, and labels images by; "
        "null: none, {}: with its defaults",
    )
    warmup: WarmupSettings | None = Field(
        default=None,
        description="before the first step the model learns, without noise, from blurred images of means and "
        "spreads that the run pays for; null: none, {}: with its defaults",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_population(cls, value: Any) -> Any:
        """An empty section is its defaults; delta lies below 1/population."""
        if not isinstance(value, dict):
            return value
        sections = {name for name in cls.model_fields if name not in ("base", "teacher", "warmup")}
        filled = {key: {} if part is None and key in sections else part for key, part in value.items()}
        budget, mechanism = filled.get("budget"), filled.get("mechanism")
        if isinstance(budget, dict) and "delta" not in budget:
            population = mechanism.get("population") if isinstance(mechanism, dict) else None
            filled["budget"] = {**budget, "delta": default_delta(population)}
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for _, message, hint in cross_checks(self.model_dump()):
            raise RefusedValueError(message, hint)
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """The recipe in a YAML (or JSON) file, with `a.b=value` overrides, its paths made absolute.

        Raises: `RecipeError` with all problems of the file. Neither `data.path` nor `base` is opened.
        """
        source = read(path, overrides)
        recipe = validate(cls, source, cross_checks(source.value))
        return recipe.resolved(Path(path).resolve().parent)

    def resolved(self, folder: Path) -> Recipe:
        """The same recipe with paths relative to `folder` made absolute, and the ledger's place filled in.

        A base that `folder` lacks and the working directory has is that one, from wherever it is asked for
        later; anything else is a hub id, or not there yet.
        """
        data = (
            self.data
            if is_hub(self.data.path)
            else self.data.model_copy(update={"path": str(folder / self.data.path)})
        )
        ledger = str(folder / self.budget.ledger) if self.budget.ledger else default_ledger(data.path)
        public = self.audit.public
        public = public if public is None or is_hub(public) else str(folder / public)
        base = folder / self.base  # its own path where it is absolute
        return self.model_copy(
            update={
                "training": _with_public(self.training, folder),
                "base": str(base) if base.exists() else base_here(self.base),
                "data": data,
                "budget": self.budget.model_copy(update={"ledger": ledger}),
                "audit": self.audit.model_copy(update={"public": public}),
                "teacher": None if self.teacher is None else self.teacher.placed(folder),
            }
        )

    def resolved_yaml(self) -> str:
        """Every key with its value, as YAML; loading it gives an equal recipe."""
        return dump(self.model_dump())

    def differences(self, other: Recipe, ignoring: tuple[str, ...] | str = "runtime.") -> list[str]:
        """Dotted keys whose values differ, in the order of the recipe, without those below `ignoring`."""
        return differing_keys(self.model_dump(), other.model_dump(), ignoring)

    def plan(self) -> Plan:
        """The calibrated plan; for the mechanism `none` one that is not private. Raises: `BudgetError`."""
        from dp_diffusers.recipe.planning import plan_of

        return plan_of(self)


def base_here(base: str) -> str:
    """A base that is in the working directory, as an absolute path; anything else as it is."""
    return str(Path(base).absolute()) if Path(base).exists() else base


def _with_public(training: TrainingSettings, folder: Path) -> TrainingSettings:
    """The same settings with the path of public images made absolute."""
    public = training.public
    if public is None or is_hub(public.path):
        return training
    placed = public.model_copy(update={"path": str(folder / public.path)})
    return training.model_copy(update={"public": placed})


def defaulted(given: Mapping[str, Any], resolved: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value for every key of `resolved` that `given` leaves out."""
    found: dict[str, Any] = {}
    for key, value in resolved.items():
        written = given.get(key) if isinstance(given, Mapping) else None
        if isinstance(value, Mapping):
            found |= defaulted(written or {}, value, f"{prefix}{key}.")
        elif not isinstance(given, Mapping) or key not in given:
            found[prefix + key] = value
    return found
