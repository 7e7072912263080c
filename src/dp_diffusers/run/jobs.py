"""What a fine-tuning is made of, before anything is opened: from a recipe, or from a call in Python.

Guarantee: no private byte is read here; whatever decides the result is in `settings`, by which a run folder
knows its own. May import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_diffusers.classes.released_classes import names_for_base
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import ParameterError
from dp_diffusers.evolution.settings import EvolutionSettings, settings_of_recipe
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.ledger_file import MEMORY
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.recipe.sections.teacher import TeacherSettings
from dp_diffusers.recipe.sections.warmup import WarmupSettings
from dp_diffusers.run.plan_of_run import declared_numbers
from dp_diffusers.strategies import document_of

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe

Progress = Callable[..., None]


def silent(**_: Any) -> None:
    """Progress that nobody sees."""


@dataclass(kw_only=True)
class Job:
    """A fine-tuning. `open_data` opens the private images as a family takes them, when it is time to."""

    base: Base
    plan: Plan
    strategy: Any
    training: TrainingSettings
    runtime: RuntimeSettings
    ledger: str | None
    open_data: Callable[[Family], PrivateImages]
    place: str | None
    """Where the private images lie; None where a call in Python was given arrays."""
    settings: dict[str, Any]
    progress: Progress = field(default=silent)
    evolution: EvolutionSettings | None = None
    """For a plan of Private Evolution, which trains nothing."""
    teacher: TeacherSettings | None = None
    """For a plan that pays for one."""
    warmup: WarmupSettings | None = None
    """For a plan that pays for its moments."""

    @property
    def ledger_file(self) -> str:
        """The ledger's file. Raises `ParameterError` where none was given."""
        if self.ledger is None:
            raise ParameterError(
                "a private plan needs a ledger", hint="give ledger=, the file that keeps the account"
            )
        if self.ledger == MEMORY:
            raise ParameterError(
                f"a ledger in memory ({MEMORY}) forgets what was spent", hint="give ledger= a file"
            )
        return self.ledger


def job_of_recipe(
    recipe: Recipe, plan: Plan, settings: dict[str, Any], progress: Progress, *, safe: Path
) -> Job:
    """The job of a recipe; opens its base. settings: the resolved recipe as a plain document.

    safe: the run's private folder, for pixels that are too many for memory.
    """
    return Job(
        base=load_base(recipe.base).with_classes(names_for_base(settings)),
        plan=plan,
        strategy=recipe.strategy.model_dump(),
        training=recipe.training,
        runtime=recipe.runtime,
        ledger=recipe.budget.ledger,
        open_data=lambda family: opened(recipe, family.size, family.channels, safe),
        place=recipe.data.path,
        settings=settings,
        progress=progress,
        evolution=settings_of_recipe(recipe),
        teacher=recipe.teacher,
        warmup=recipe.warmup,
    )


def opened(recipe: Recipe, size: int, channels: int, safe: Path | None = None) -> PrivateImages:
    """The recipe's images, as a model of this size and number of channels takes them."""
    return PrivateImages.open(
        recipe.data.path,
        label=recipe.data.label,
        unit=recipe.budget.unit,
        classes=recipe.data.classes,
        size=size,
        channels=channels,
        caption=recipe.data.caption,
        caption_column=recipe.data.caption_column,
        resize=recipe.data.resize,
        window=recipe.data.window,
        safe=safe,
    )


def settings_of_call(
    base: Base,
    data: PrivateImages,
    plan: Plan,
    strategy: Any,
    training: TrainingSettings,
    runtime: RuntimeSettings,
    evolution: EvolutionSettings | None = None,
    base_classes: Sequence[str | int] | None = None,
    teacher: TeacherSettings | None = None,
    warmup: WarmupSettings | None = None,
) -> dict[str, Any]:
    """What decides the result of a call of `finetune`, as a plain document."""
    told = data.names_are_told
    declared = data.class_names if told or not data.class_names_from_data else None
    family, side = family_of(base), int(data.images.shape[1])
    further = {
        "base_classes": None if base_classes is None else list(base_classes),
        "caption": data.caption,
        "class_names_from_data": _names_of_data(data, used=told or not family.takes_text),
        "captions": True if data.captions is not None else None,  # that there are some, never what they say
        "evolution": None if evolution is None else evolution.to_dict(),
        "teacher": None if teacher is None else teacher.model_dump(mode="json"),
        "warmup": None if warmup is None else warmup.model_dump(mode="json"),
        "size": side if side != family.size and family.takes_size(side) else None,
    }
    return {
        "base": base.source or base.identity,
        "plan": declared_numbers(plan),
        "classes": list(declared) if declared else None,
        "strategy": document_of(strategy),
        "training": training.model_dump(mode="json"),
        "runtime": runtime.model_dump(mode="json"),
        **{name: value for name, value in further.items() if value not in (None, False)},
    }


def _names_of_data(data: PrivateImages, *, used: bool) -> bool:
    """Whether names of classes that nobody but the data said become part of the release."""
    return used and data.class_names is not None and (data.class_names_from_data or data.names_in_file)
