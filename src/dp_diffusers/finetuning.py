"""From a public model and private images to a release: the two ways in.

Guarantee: the same call again resumes, or says that it is done; with anything else changed it refuses. May
import torch. `train` is the command line's way in, `finetune` that of Python; `running` is what they share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers import __version__
from dp_diffusers.classes.base_classes import require_fitting
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.loading import as_base
from dp_diffusers.errors import ParameterError, of_kind
from dp_diffusers.evolution.settings import EvolutionSettings, settings_of_plan
from dp_diffusers.loop.row_store import forget
from dp_diffusers.plan import Plan
from dp_diffusers.processes import Team, team
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.recipe.checks import without_effect_on_evolution
from dp_diffusers.recipe.sections.evolution import GONE
from dp_diffusers.recipe.sections.teacher import TeacherSettings
from dp_diffusers.recipe.sections.warmup import WarmupSettings
from dp_diffusers.release import Release
from dp_diffusers.run.call_checks import settings_of, settings_or_none
from dp_diffusers.run.earlier_recipe import require_same_recipe
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.jobs import Job, Progress, job_of_recipe, settings_of_call, silent
from dp_diffusers.run.ledger_place import other_ledger
from dp_diffusers.run.plan_of_run import plan_of_first
from dp_diffusers.run.running import require_unit, run
from dp_diffusers.strategies import strategy_of

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe

_AN_OBJECT: Final = (
    "the base model came as an object: another process, or whoever gets the release, draws and merges with a "
    "folder of it alone; save it with save_pretrained, and give that folder instead, to be sure of one"
)


def train(recipe: Recipe, out: Path, progress: Progress = silent) -> Release:
    """Runs a recipe in the folder `out`; resumes; returns the release.

    Raises the errors of `plan` and `finetune`; `RunFolderError` when `out` belongs to another recipe.
    """
    folder = RunFolder(Path(out).absolute())
    settings = recipe.model_dump(mode="json")
    together = team()
    progress = progress if together.first else silent
    _require_same_call(together, folder, settings)
    if together.first_tells(lambda: _is_done(folder, settings)):
        progress(message=f"{folder.root} is done: the same recipe has finished there")
        ledger = recipe.budget.ledger
        if recipe.mechanism.name != "none" and ledger and not Path(ledger).exists():
            progress(message=f"its ledger {ledger} is missing: restore it before these images are used again")
        return Release.open(folder.root)
    plan = plan_of_first(together, recipe.plan)
    progress(message=plan.explain())
    job = together.all_do(lambda: job_of_recipe(recipe, plan, settings, progress, safe=folder.private))
    return run(job, folder)


def finetune(
    base: Any,
    data: PrivateImages,
    plan: Plan,
    *,
    out: str | Path,
    ledger: str | Path | None = None,
    strategy: Any = None,
    training: TrainingSettings | Mapping[str, Any] | None = None,
    runtime: RuntimeSettings | Mapping[str, Any] | None = None,
    progress: Progress = silent,
    evolution: EvolutionSettings | None = None,
    base_classes: Sequence[str | int] | None = None,
    teacher: TeacherSettings | Mapping[str, Any] | None = None,
    warmup: WarmupSettings | Mapping[str, Any] | None = None,
) -> Release:
    """Fine-tunes a public model on private images under a plan, and writes a release.

    Args:
        base: a diffusers pipeline with a `unet` or a `transformer`, a diffusers folder or hub id, or a
            `Base`.
        data: the private images; opened without a word about whose they are, they are read once more for
            the column that the budget names.
        plan: from `Plan.calibrate`.
        out: the run folder; the same call again resumes or returns the finished release.
        ledger: the data set's ledger file; needed unless the plan is not private.
        strategy: None (LoRA of rank 8 on attention), a `peft.LoraConfig`, or a mapping as in a recipe.
        training: learning rate, noise draws and the like; nothing in it can change epsilon. Like `runtime`,
            `teacher` and `warmup` an object, or a mapping as in a recipe.
        runtime: device, dtype, rows per pass.
        progress: called with keyword arguments `step, steps, epsilon, budget, seconds` or `message`.
        evolution: for a plan of `PE`, which trains nothing: how many images, how they vary and are drawn;
            a strategy, and settings of the training that are not the defaults, are refused with it.
        base_classes: for each of the images' declared classes, the class of the base that it starts from, a
            name or a number; None goes by name, or by position where no name is shared.
        teacher: a classifier to release beside the adapter, as in a recipe, for a plan that pays for it
            (`mechanisms.teacher.teacher_query`).
        warmup: what the model learns before the first step, as in a recipe, for a plan that pays for its
            moments (`mechanisms.moments.moments_query`).

    Raises:
        InputError: something given cannot be used, or the images belong to another unit than the budget
            protects, and nothing was spent; or disk, memory or folder failed under way, and what was charged
            stays charged.
        BudgetError: the data set's cap does not allow the plan, and nothing was spent; `RunClosed` where
            someone closed the run under way.
    """
    of_kind(Plan, plan=plan, hint="Plan.calibrate(budget, mechanism) makes one")
    of_kind(PrivateImages, data=data, hint="PrivateImages.open(path) reads what lies at a path")
    training = settings_of(TrainingSettings, training={} if training is None else training)
    runtime = settings_of(RuntimeSettings, runtime={} if runtime is None else runtime)
    teacher = settings_or_none(TeacherSettings, teacher=teacher)
    warmup = settings_or_none(WarmupSettings, warmup=warmup)
    if evolution is not None:
        of_kind(EvolutionSettings, evolution=evolution)
    if plan.budget is not None:
        data = data.of_unit(plan.budget.unit)
    require_unit(plan, data)
    declared = None if data.class_names_from_data else data.class_names
    if base_classes is not None:
        require_fitting(base_classes, declared)
    opened = as_base(base).with_classes(declared if base_classes is None else None)
    evolution = settings_of_plan(plan, evolution)
    if evolution is not None:
        _refuse_training(strategy, training, runtime, warmup)
    settings = settings_of_call(
        opened, data, plan, strategy, training, runtime, evolution, base_classes, teacher, warmup
    )
    folder, together = RunFolder(Path(out).absolute()), team()
    _require_same_call(together, folder, settings)
    if together.first_tells(lambda: _is_done(folder, settings)):
        return _reopened(folder, opened)
    job = Job(
        base=opened,
        plan=plan,
        strategy=strategy or {"name": "lora"},
        training=training,
        runtime=runtime,
        ledger=None if ledger is None else str(ledger),
        open_data=lambda _: data,
        place=data.place,
        settings=settings,
        progress=progress if together.first else silent,
        evolution=evolution,
        teacher=teacher,
        warmup=warmup,
    )
    if opened.in_memory and not folder.recipe.exists():
        job.progress(message=_AN_OBJECT)
    fact = None if plan.not_private or folder.read(RUN) else other_ledger(job.ledger, data.place)
    if fact is not None:
        job.progress(message=fact)
    return run(job, folder)


def _require_same_call(together: Team, folder: RunFolder, settings: dict[str, Any]) -> None:
    """Raises `ParameterError` where the processes of a training were started with different calls."""
    if together.several:
        call = [str(folder.root.absolute()), settings, __version__]
        together.require_same("recipe or --out", json.dumps(call, sort_keys=True, default=str))


def _refuse_training(
    strategy: Any, training: TrainingSettings, runtime: RuntimeSettings, warmup: WarmupSettings | None
) -> None:
    """Raises `ParameterError`, as a recipe does, for what Private Evolution would not look at."""
    if strategy is not None and not isinstance(strategy, Mapping):
        raise ParameterError("strategy has no effect with mechanism.name pe", hint=GONE)
    given = {"strategy": strategy, "training": training.model_dump(), "runtime": runtime.model_dump()}
    given["warmup"] = None if warmup is None else warmup.model_dump()
    for _, message, hint in without_effect_on_evolution({"mechanism": {"name": "pe"}, **given}):
        raise ParameterError(message, hint=hint)
    strategy_of(strategy or {})  # refuses a key that no strategy has


def _reopened(folder: RunFolder, base: Base) -> Release:
    """The release of a finished run; a base that came as an object gets the adapter, if it is without one."""
    if not base.in_memory:
        return Release.open(folder.root)
    release = Release.open(folder.root, base=base)
    release.hold()
    return release


def _is_done(folder: RunFolder, settings: dict[str, Any]) -> bool:
    """Whether this recipe finished here.

    Raises `RunFolderError` naming what differs from the recipe of the folder.
    """
    if not folder.recipe.exists():
        return False
    require_same_recipe(folder, settings)
    done = bool((folder.read(RUN) or {}).get("done"))
    if done:
        folder.checkpoint.unlink(missing_ok=True)  # a process that died on its last lines has left them
        forget(folder.cache)
        forget(folder.captions)
        folder.sweep()
    return done
