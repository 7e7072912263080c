"""What of a recipe may still change once its training is done: how images are made, and on which machine.

Guarantees that `--set` reaches nothing that the training depended on. May import pydantic. The keys are those
of a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from dp_diffusers.recipe.file import RecipeSource, override, validate
from dp_diffusers.recipe.problems import Section
from dp_diffusers.recipe.sections import GenerationSettings, RuntimeSettings


class AfterTraining(Section):
    """The sections of a recipe that `generate` may override."""

    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)


def after_training(
    settings: Mapping[str, Any], overrides: Iterable[str], path: Path = Path("recipe.yaml")
) -> AfterTraining:
    """`settings`, the resolved recipe of a run at `path`, with `key=value` overrides.

    Raises `RecipeError` for another key than `generation.*` and `runtime.*`, or a value out of range.
    """
    known = {name: dict(settings.get(name) or {}) for name in AfterTraining.model_fields}
    source = RecipeSource(path=path, value=known)
    for item in overrides:
        override(source, item)
    return validate(AfterTraining, source)
