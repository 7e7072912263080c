"""The sections of a fine-tuning recipe, one file each: every key with its type, range, default and purpose.

Guarantees that a value outside its range never gets past the recipe. May import pydantic; never numpy, never
torch. Each description is the only source of help texts.
"""

from __future__ import annotations

from dp_diffusers.recipe.sections.after import AuditSettings, GenerationSettings
from dp_diffusers.recipe.sections.budget import BudgetSettings, CapSettings
from dp_diffusers.recipe.sections.data import DataSettings
from dp_diffusers.recipe.sections.limits import DEVICES, MOST_ROWS, MOST_STEPS, MOST_UNITS, SEEDS, Timesteps
from dp_diffusers.recipe.sections.mechanism import MechanismSettings
from dp_diffusers.recipe.sections.runtime import RuntimeSettings
from dp_diffusers.recipe.sections.strategy import StrategySettings
from dp_diffusers.recipe.sections.teacher import TeacherSettings
from dp_diffusers.recipe.sections.training import TrainingSettings
from dp_diffusers.recipe.sections.warmup import WarmupSettings

__all__ = [
    "DEVICES",
    "MOST_ROWS",
    "MOST_STEPS",
    "MOST_UNITS",
    "SEEDS",
    "AuditSettings",
    "BudgetSettings",
    "CapSettings",
    "DataSettings",
    "GenerationSettings",
    "MechanismSettings",
    "RuntimeSettings",
    "StrategySettings",
    "TeacherSettings",
    "Timesteps",
    "TrainingSettings",
    "WarmupSettings",
]
