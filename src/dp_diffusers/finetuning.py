"""From a public model and private images to a release: all around the loop, in the order that keeps it safe.

Guarantees:
- plan, base, strategy and dry run come first and touch no private byte; the whole cost is in the ledger
  before the first private pixel is read; a failure before the first charge cancels the reservation;
- the same call again resumes, or says that it is done; with anything else changed it refuses.
May import torch. `train` is the command line's way in, `finetune` that of Python.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dp_diffusers import checkpoint
from dp_diffusers.class_histogram import released_proportions, require_classes
from dp_diffusers.class_numbers import numbered_for
from dp_diffusers.data.ownership import ownership_record
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.devices import device_of
from dp_diffusers.diffusion.base import Base, base_of_pipeline, fingerprint, load_base
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.earlier_recipe import require_same_recipe
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.plan import Plan
from dp_diffusers.plan_of_run import declared_numbers, plan_of_run
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.rehearsal import rehearse
from dp_diffusers.release import Release, write_release
from dp_diffusers.released_classes import ReleasedClasses, declared_names, released_classes
from dp_diffusers.run_folder import RUN, RunFolder
from dp_diffusers.strategies import document_of, strategy_of
from dp_diffusers.strategies.lora import has_adapter, load_adapter
from dp_diffusers.training import Loop
from dp_diffusers.whole_files import write_text

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe

Progress = Callable[..., None]
OWNERSHIP = "ownership.json"


def _silent(**_: Any) -> None:
    """Progress that nobody sees."""


@dataclass(kw_only=True)
class Job:
    """What a fine-tuning is made of, before anything is opened."""

    base: Base
    plan: Plan
    strategy: Any
    training: TrainingSettings
    runtime: RuntimeSettings
    ledger: str | None
    open_data: Callable[[Base], PrivateImages]
    settings: dict[str, Any]
    progress: Progress = field(default=_silent)


def train(recipe: Recipe, out: Path, progress: Progress = _silent) -> Release:
    """Runs a recipe in the folder `out`; resumes; returns the release.

    Raises the errors of `plan` and `finetune`; `RunFolderError` when `out` belongs to another recipe.
    """
    folder = RunFolder(Path(out))
    settings = recipe.model_dump(mode="json")
    if _is_done(folder, settings):
        progress(message=f"{folder.root} is done: the same recipe has finished there")
        ledger = recipe.budget.ledger
        if recipe.mechanism.name != "none" and ledger and not Path(ledger).exists():
            progress(message=f"its ledger {ledger} is missing: restore it before these images are used again")
        return Release.open(folder.root)
    plan = recipe.plan()
    progress(message=plan.explain())
    job = Job(
        base=load_base(recipe.base).with_classes(recipe.data.classes),
        plan=plan,
        strategy=recipe.strategy.model_dump(),
        training=recipe.training,
        runtime=recipe.runtime,
        ledger=recipe.budget.ledger,
        open_data=lambda base: _opened(recipe, base),
        settings=settings,
        progress=progress,
    )
    return _run(job, folder)


def _opened(recipe: Recipe, base: Base) -> PrivateImages:
    """The recipe's images, as the base takes them."""
    return PrivateImages.open(
        recipe.data.path,
        label=recipe.data.label,
        unit=recipe.budget.unit,
        classes=recipe.data.classes,
        size=base.size,
        channels=base.channels,
        caption=recipe.data.caption,
        resize=recipe.data.resize,
    )


def finetune(
    base: Any,
    data: PrivateImages,
    plan: Plan,
    *,
    out: str | Path,
    ledger: str | Path | None = None,
    strategy: Any = None,
    training: TrainingSettings | None = None,
    runtime: RuntimeSettings | None = None,
    progress: Progress = _silent,
) -> Release:
    """Fine-tunes a public model on private images under a plan, and writes a release.

    Args:
        base: a diffusers pipeline with a pixel `unet`, a diffusers folder or hub id, or a `Base`.
        data: the private images.
        plan: from `Plan.calibrate`.
        out: the run folder; the same call again resumes or returns the finished release.
        ledger: the data set's ledger file; needed unless the plan is not private.
        strategy: None (LoRA of rank 8 on attention), a `peft.LoraConfig`, or a mapping as in a recipe.
        training: learning rate, noise draws and the like; nothing in it can change epsilon.
        runtime: device, dtype, rows per pass.
        progress: called with keyword arguments `step, steps, epsilon, budget, seconds` or `message`.

    Raises:
        InputError: something given cannot be used, or the images belong to another unit than the budget
            protects; nothing was spent.
        BudgetError: the data set's cap does not allow the plan; nothing was spent.
    """
    training, runtime = training or TrainingSettings(), runtime or RuntimeSettings()
    _require_unit(plan, data)
    declared = None if data.class_names_from_data else data.class_names
    opened = _as_base(base).with_classes(declared)
    settings = {
        "base": opened.source or opened.identity,
        "plan": declared_numbers(plan),
        "classes": list(declared) if declared else None,
        "strategy": document_of(strategy),
        "training": training.model_dump(mode="json"),
        "runtime": runtime.model_dump(mode="json"),
    }
    folder = RunFolder(Path(out))
    if _is_done(folder, settings):
        return _reopened(folder, opened)
    job = Job(
        base=opened,
        plan=plan,
        strategy=strategy or {"name": "lora"},
        training=training,
        runtime=runtime,
        ledger=None if ledger is None else str(ledger),
        open_data=lambda _: data,
        settings=settings,
        progress=progress,
    )
    return _run(job, folder)


def _run(job: Job, folder: RunFolder) -> Release:
    if not job.plan.not_private:
        _ledger_of(job)
    require_classes(job.plan, _classes(job))
    device = _device(job.runtime.device)
    family = family_of(job.base, timesteps=job.training.timesteps, label_dropout=job.training.label_dropout)
    strategy = strategy_of(job.strategy)
    config = strategy.apply(family.network, seed=job.training.seed)
    family.network.to(device).train()
    rehearse(family)
    folder.create()
    with folder.lock():
        if (folder.read(RUN) or {}).get("done"):
            raise RunFolderError(
                f"another process has just finished {folder.root}", hint="run the same again"
            )
        return _run_alone(job, folder, family, config)


def _run_alone(job: Job, folder: RunFolder, family: Family, config: Any) -> Release:
    if not folder.recipe.exists():
        write_text(folder.recipe, yaml.safe_dump(job.settings, sort_keys=False, allow_unicode=True))
    account, fresh = None, folder.read(RUN) is None
    job = replace(job, plan=plan_of_run(job.plan, folder))
    keys = job.plan.fresh_keys()
    try:
        account = None if job.plan.not_private else _account(job, folder)
        if account is not None:
            account.open_lane(keys, folder=str(folder.root.resolve()))
        data = job.open_data(job.base)
        _require_unit(job.plan, data)
        data, notes = numbered_for(data, job.base.classes, job.base.class_names)
        family.encode(data.images[:1])  # refuses images that the model does not take
        job.plan.sampler(data.unit_count, keys)  # refuses units without a slot, before anything is charged
        _note_ownership(job.plan, data, folder)
        for note in [*data.notes, *notes]:
            job.progress(message=note)
        proportions = released_proportions(
            job.plan,
            _classes(job),
            data=data,
            account=account,
            keys=keys,
            folder=folder,
            progress=job.progress,
        )
        loop = Loop(
            family=family,
            data=data,
            plan=job.plan,
            account=account,
            keys=keys,
            training=job.training,
            runtime=job.runtime,
            folder=folder,
            progress=job.progress,
        )
        loop.run()
    except BaseException:
        if not folder.checkpoint.exists():
            _forget_unspent(account, folder, fresh)
        raise
    return _finish(job, folder, family, config, data, account, proportions)


def _finish(
    job: Job,
    folder: RunFolder,
    family: Family,
    config: Any,
    data: PrivateImages,
    account: Any,
    proportions: tuple[float, ...] | None,
) -> Release:
    if account is not None:
        account.settle()
    release = write_release(
        folder,
        base=job.base,
        network=family.network,
        config=config,
        plan=job.plan,
        data=data,
        account=account,
        proportions=proportions,
    )
    release.base = job.base if job.base.in_memory else None
    folder.write(RUN, {**(folder.read(RUN) or {}), "done": True})
    folder.checkpoint.unlink(missing_ok=True)
    folder.sweep()
    return release


def _classes(job: Job) -> ReleasedClasses | None:
    """What images will be made of; known before anything private is opened."""
    return released_classes(job.base.classes, job.base.class_names, declared_names(job.settings))


def _ledger_of(job: Job) -> str:
    """The ledger's file. Raises `ParameterError` where none was given."""
    if job.ledger is None:
        raise ParameterError(
            "a private plan needs a ledger", hint="give ledger=, the file that keeps the account"
        )
    return job.ledger


def _account(job: Job, folder: RunFolder) -> Any:
    """The run's reservation: the one it has, or a new one. Its name is on disk before it is in the ledger."""
    from dp_diffusers.privacy.ledger import Ledger

    known = folder.read(RUN)
    head = known.get("head") if known else None
    # a run that knows a head has a ledger: an empty one in its place would forget what was spent
    ledger = Ledger.open(_ledger_of(job), expect_head=head, create=head is None)
    saved = checkpoint.load(folder.checkpoint) if known else None
    if saved is not None and saved["head"] is not None:
        ledger.require_head(saved["head"])
    run_id = known["run_id"] if known else uuid.uuid4().hex
    named = {"run_id": run_id, "plan": job.plan.to_json()}
    if not known:
        folder.write(RUN, named)
    if known:
        ledger.refuse_given_up(run_id, complete=bool(saved and saved["complete"]))
    account = ledger.resume(run_id) if ledger.has_run(run_id) else ledger.reserve(job.plan, run_id=run_id)
    if account.plan_fingerprint != job.plan.fingerprint:
        raise RunFolderError(
            f"the ledger {ledger.path} holds another plan for this run than {folder.root}",
            hint="give another --out; a plan cannot change while its run goes on",
        )
    try:
        folder.write(RUN, {**named, "head": ledger.head})
    except BaseException:
        if not known:
            account.cancel()
        raise
    return account


def _reopened(folder: RunFolder, base: Base) -> Release:
    """The release of a finished run; a base that came as an object gets the adapter, if it is without one."""
    if not base.in_memory:
        return Release.open(folder.root)
    if not has_adapter(base.unet):
        load_adapter(base.unet, folder.adapter)
    return Release.open(folder.root, base=base)


def _forget_unspent(account: Any, folder: RunFolder, fresh: bool) -> None:
    """A failure before the first charge gives the reservation back; the folder is free for another recipe."""
    if account is not None:
        if account.charged:
            return
        account.cancel()
    elif not fresh:
        return  # an earlier start may hold a reservation that this one could not open
    for path in (folder.private / RUN, folder.private / OWNERSHIP, folder.recipe):
        path.unlink(missing_ok=True)


def _is_done(folder: RunFolder, settings: dict[str, Any]) -> bool:
    """Whether this recipe finished here.

    Raises `RunFolderError` naming what differs from the recipe of the folder.
    """
    if not folder.recipe.exists():
        return False
    require_same_recipe(folder, settings)
    done = bool((folder.read(RUN) or {}).get("done"))
    if done:
        folder.checkpoint.unlink(missing_ok=True)  # a process that died on its last lines has left it
        folder.sweep()
    return done


def _require_unit(plan: Plan, data: PrivateImages) -> None:
    """Raises `ParameterError` unless the owners of the images are what the budget protects, as it does."""
    if plan.budget is not None and data.multi_owner and plan.budget.adjacency == "add_remove":
        raise ParameterError(
            f"some images belong to several of {data.unit!r}: one more or fewer of them would change whose "
            "images are used, which add_remove does not allow for",
            hint="budget.adjacency: zero_out, where the owners stay; and a new ledger, if this run began it",
        )
    if plan.budget is not None and plan.budget.unit != data.unit:
        raise ParameterError(
            f"the budget protects each {plan.budget.unit!r}, the unit of the images is {data.unit!r}",
            hint="give Budget and PrivateImages the same unit=",
        )


def _note_ownership(plan: Plan, data: PrivateImages, folder: RunFolder) -> None:
    """Writes down, in the safe alone, which images take no part: dropped ones, and units without a slot."""
    fixed = getattr(plan.mechanism, "max_units", None) is not None
    if data.multi_owner or fixed:
        population = plan.mechanism.population if fixed else None
        record = ownership_record(data.owner, data.dropped, population=population)
        folder.write(OWNERSHIP, {"unit": data.unit, "multi_owner": data.multi_owner, **record})


def _device(name: str) -> Any:
    """The device to train on. Raises `ParameterError` where there is none, or it cannot do the noise."""
    if name.startswith("mps"):
        raise ParameterError(
            "runtime.device mps has no float64, which sums and noise need", hint="set runtime.device to cpu"
        )
    return device_of(name)


def _as_base(base: Any) -> Base:
    """What was given, as a base with the fingerprint that it has before any adapter is in it."""
    if isinstance(base, str | Path):
        return load_base(base)
    if not isinstance(base, Base):
        return base_of_pipeline(base)
    return base if base.sha256 else replace(base, sha256=fingerprint(base))
