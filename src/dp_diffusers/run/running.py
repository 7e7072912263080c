"""A run around its loop, in the order that keeps it safe.

Guarantees:
- plan, base, strategy and dry run come first and touch no private byte; the whole cost is in the ledger
  before the first private pixel is read; a failure before the first charge cancels the reservation;
- public images that are private ones are refused before the first charge, however the run was called;
- the release is certified and verified before the run calls itself done;
- of several processes, the first alone has the folder, the ledger and every question to the images but the
  steps; the others read no private image before it has reserved the cost.
May import torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dp_diffusers.classes.conditions import (
    classes_of,
    conditioned,
    require_distinct_texts,
    require_use_of_labels,
    set_conditions,
)
from dp_diffusers.classes.released_classes import declared_size
from dp_diffusers.data.ownership import ownership_record
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.sources import require_place
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.generation import require_sampler
from dp_diffusers.diffusion.merged_from import require_bounded
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.evolution.evolving import Evolution, require_evolvable
from dp_diffusers.evolution.population import Population, sampling_of
from dp_diffusers.loop.public_batches import public_batches
from dp_diffusers.loop.rehearsal import require_finite_latents, require_float32
from dp_diffusers.loop.row_store import forget
from dp_diffusers.mechanisms.moments import Gaussians
from dp_diffusers.mechanisms.teacher import NAME as TEACHER
from dp_diffusers.plan import Plan
from dp_diffusers.processes import ALONE, Team, team
from dp_diffusers.processes.one_folder import require_one_folder, require_same_images
from dp_diffusers.processes.ranks import Ranks
from dp_diffusers.processes.sharding import require_shardable, shard_frozen
from dp_diffusers.queries.asked_moments import released_moments, require_moments
from dp_diffusers.queries.class_histogram import released_proportions, require_classes
from dp_diffusers.queries.saliency_choice import (
    chosen_layers,
    rehearsed_candidates,
    require_query,
)
from dp_diffusers.queries.warming import Warmup
from dp_diffusers.release import Release, require_no_strays, write_release
from dp_diffusers.run.accounts import OWNERSHIP
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.held_base import rest_untouched
from dp_diffusers.run.jobs import Job
from dp_diffusers.run.learnt_apart import require_learnt_apart
from dp_diffusers.run.model_of_run import Model
from dp_diffusers.run.out_apart import require_no_images, require_out_apart
from dp_diffusers.run.paying import Paying
from dp_diffusers.run.plan_of_run import plan_of_first
from dp_diffusers.run.run_secrets import note_traces
from dp_diffusers.runtime.arrangement import arrange, rehearse_arranged, undone
from dp_diffusers.runtime.compiled_parts import uncompiled
from dp_diffusers.runtime.devices import device_of_process
from dp_diffusers.runtime.out_of_memory import told_in_one_line
from dp_diffusers.runtime.pass_size import PassSize, pass_size, sized
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.sapf import Sapf
from dp_diffusers.teaching.prepared_teacher import generation_of
from dp_diffusers.teaching.teacher import Teacher
from dp_diffusers.teaching.teacher_of_run import Asking, teacher_of
from dp_diffusers.training import Loop


def run(job: Job, folder: RunFolder) -> Release:
    """Trains, or goes on with it, and writes the release. Raises what the parts raise."""
    with told_in_one_line():
        together = team()
        together.all_do(lambda: _refused_first(job, folder, together))
        model = together.all_do(lambda: _prepared(job, together, folder))
        together.require_same("base model", str(job.base.sha256))
        with contextlib.ExitStack() as stack:
            together.first_does(lambda: stack.enter_context(_to_itself(folder)))
            require_one_folder(together, folder)
            return _run_together(replace(job, runtime=model.runtime), folder, model, together)


def _refused_first(job: Job, folder: RunFolder, together: Team) -> None:
    """The cheapest refusals: nothing is there yet that they could leave behind."""
    if path := (job.settings.get("data") or {}).get("path"):  # a ledger lies beside images, not beside a typo
        require_place(path)
    if folder.read(RUN) is None and not folder.recipe.exists():  # one that has begun goes on where it is
        require_out_apart(folder.root, job.settings, [job.place])
        require_no_images(folder.root, job.settings)
    if not job.plan.not_private:
        _ = job.ledger_file
        require_bounded(job.base.merged_from)
        if folder.read(RUN) is None:  # one that has begun is reserved, and may end
            require_learnt_apart(job.settings, job.place)
    if together.several and job.evolution is not None:
        raise ParameterError(
            f"Private Evolution works in one process, and {together.ranks.count} were started",
            hint="start it without torchrun",
        )


@contextlib.contextmanager
def _to_itself(folder: RunFolder) -> Iterator[None]:
    """The folder of a run that has not finished, without other trainings."""
    folder.create()
    with folder.lock():
        if (folder.read(RUN) or {}).get("done"):
            raise RunFolderError(
                f"another process has just finished {folder.root}", hint="run the same again"
            )
        require_no_strays(folder)
        yield


def measured(job: Job) -> PassSize | None:
    """What a pass of this job takes here, on random tensors; None for an evolution, which has no passes.

    Nothing private is touched, no ledger and no folder. Raises what `run` raises before those.
    """
    once = job.runtime.model_copy(update={"rows_per_pass": 1})  # it is measured here, not twice
    job = replace(job, teacher=None)  # which draws images, and takes no pass
    with told_in_one_line():
        model = _prepared(replace(job, runtime=once), ALONE)
        if job.evolution is not None:
            return None
        return pass_size(model.largest, job.plan, job.training, job.runtime)


def _prepared(job: Job, together: Team, folder: RunFolder | None = None) -> Model:
    """The adapted model on its device, rehearsed on random tensors; nothing private is touched.

    folder: of the run, to which an earlier start may have left something public; None to measure only.
    """
    training = job.training
    family = family_of(
        job.base,
        timesteps=training.timesteps,
        label_dropout=training.label_dropout,
        size=declared_size(job.settings),
    )
    if job.evolution is None:
        require_float32(family)
    if folder is None or folder.read(RUN) is None:  # one that has begun goes on: it guards no privacy
        require_use_of_labels(family, job.settings)
    require_classes(job.plan, classes_of(family, job.settings))
    device = _device(job.runtime.device, together.ranks)
    require_query(job.plan, None if job.evolution else strategy_of(job.strategy))
    moments = require_moments(job.plan, job.warmup, family, job.settings)
    teacher = None if folder is None else teacher_of(job, family, device, together, folder)
    if job.evolution is not None:
        require_evolvable(family, classes_of(family, job.settings), job.evolution)
        family.network.to(device)
        require_finite_latents(family)
        set_conditions(family, job.settings)
        _require_distinct_texts(family, job, folder)
        require_sampler(family, sampling_of(job.evolution.generation))
        return Model(family=family, runtime=job.runtime, teacher=teacher)
    strategy, config, candidates = strategy_of(job.strategy), None, None
    if not isinstance(strategy, Sapf):
        config = strategy.apply(family.network, seed=training.seed)
    if job.runtime.shard_base:
        require_shardable(strategy, together, device, job.runtime, in_memory=job.base.in_memory)
        shard_frozen(family.network, device, job.runtime.process_timeout)
    network = family.network.to(device).train()
    arrange(network, job.runtime, adapted=not isinstance(strategy, Sapf))
    require_finite_latents(family)
    set_conditions(family, job.settings)
    _require_distinct_texts(family, job, folder)
    if isinstance(strategy, Sapf):
        candidates = rehearsed_candidates(family, strategy, training.seed)
    else:
        if job.runtime.compile:
            job.progress(message="compiling parts of the model, which can take minutes")
        rehearse_arranged(family, job.runtime)
    if job.settings.get("generation") or (teacher is not None and teacher.after_the_steps):
        with uncompiled(job.runtime.compile):  # drawing would compile it once more, for nothing
            require_sampler(family, sampling_of(generation_of(job.settings)))
    public = public_batches(
        training.public, family, seed=training.seed, recipe=job.settings, private=job.place
    )
    model = Model(family=family, runtime=job.runtime, config=config, public=public, candidates=candidates)
    model.teacher, model.moments = teacher, moments
    model.runtime = sized(job.runtime, model.largest, job.plan, training, job.progress)
    return model


def _require_distinct_texts(family: Family, job: Job, folder: RunFolder | None) -> None:
    """Of a run that has not begun: one that has is paid for, and goes on."""
    if folder is None or folder.read(RUN) is None:
        require_distinct_texts(family, job.settings)


def _run_together(job: Job, folder: RunFolder, model: Model, together: Team) -> Release:
    paying = Paying(folder=folder)
    try:
        plan = plan_of_first(together, lambda: paying.begin(job), job.plan)
        job = replace(job, plan=plan)
        keys = together.keys(plan.fresh_keys)
        together.first_does(lambda: paying.open(job, keys))
        shared = {"account": paying.account, "keys": keys, "folder": folder}
        data = _data(job, folder, model, keys, together)
        proportions = together.first_does(
            lambda: released_proportions(
                plan, classes_of(model.family, job.settings), data=data, progress=job.progress, **shared
            )
        )
        asking = Asking(job=job, family=model.family, prepared=model.teacher, shared={"data": data, **shared})
        teacher = together.first_does(asking.before_the_steps)
        _choose_layers(job, model, together, data=data, **shared)
        warmup = _warmup(job, model, together, data=data, **shared)
        loop = _loop(job, model, together, warmup, data=data, **shared)
        with rest_untouched(job.base):
            loop.run()
        teacher = together.first_does(asking.after_the_steps) or teacher
    except BaseException:
        if together.first and not folder.checkpoint.exists():
            paying.forget()
        raise
    population = loop.population if isinstance(loop, Evolution) else None
    release = together.first_does(
        lambda: _finish(job, folder, model, data, paying.account, proportions, population, teacher)
    )
    if release is None:
        release = Release.open(folder.root)
    if job.base.in_memory:
        release.base = job.base
        release.hold(trained=True)
    return release


def _warmup(job: Job, model: Model, together: Team, **shared: Any) -> Warmup | None:
    """Images for a warm-up, drawn from what the first process asks; None once that is behind."""
    asked, folder = model.moments, shared["folder"]
    if asked is None or together.first_tells(folder.checkpoint.exists):
        return None
    told = together.state_of_first(
        lambda: released_moments(job.plan, asked, progress=job.progress, **shared).state()
    )
    assert told is not None
    gaussians, seed = Gaussians.of_state(told), job.training.seed
    return together.all_do(lambda: Warmup.on(asked, gaussians, model.family, seed=seed))


def _choose_layers(job: Job, model: Model, together: Team, **shared: Any) -> None:
    """Adapts the layers that the private images choose, where the strategy leaves that to them.

    Of several processes the first asks, and tells the others.
    """
    if model.candidates is None:
        return
    strategy, network = strategy_of(job.strategy), model.family.network
    shared |= {"plan": job.plan, "training": job.training, "runtime": job.runtime, "progress": job.progress}
    candidates, family = model.candidates, model.family
    chosen = together.first_tells(lambda: chosen_layers(strategy, candidates, family=family, **shared))
    model.candidates = candidates = None  # its memory is free for the training
    device = next(network.parameters()).device
    model.config = strategy.apply(network, seed=job.training.seed, chosen=chosen)
    arrange(network.to(device).train(), job.runtime)
    if job.runtime.compile:
        rehearse_arranged(model.family, job.runtime)


def _loop(job: Job, model: Model, together: Team, warmup: Warmup | None, **shared: Any) -> Loop | Evolution:
    """What the plan pays for: steps of a training, or iterations of an evolution."""
    shared |= {"family": model.family, "plan": job.plan, "progress": job.progress}
    if job.evolution is not None:
        classes = classes_of(model.family, job.settings)
        return Evolution(settings=job.evolution, classes=classes, **shared)
    shared |= {"public": model.public, "warmup": warmup, "team": together}
    return Loop(training=job.training, runtime=job.runtime, **shared)


def _data(job: Job, folder: RunFolder, model: Model, keys: Any, together: Team) -> PrivateImages:
    """The private images, checked against plan, model and public images; here they are first read."""
    family = model.family
    data = together.all_do(lambda: _opened(job, model))
    require_same_images(together, data)
    data, notes = together.in_turn(lambda: _checked(job, family, data, folder, keys))
    together.first_does(lambda: _noted(job, data, folder))
    for note in [*data.notes, *notes]:
        job.progress(message=note)
    return data


def _opened(job: Job, model: Model) -> PrivateImages:
    data = job.open_data(model.family)
    require_unit(job.plan, data)
    for public in (model.public, model.teacher):
        if public is not None:
            public.refuse_private(data)
    return data


def _checked(
    job: Job, family: Family, data: PrivateImages, folder: RunFolder, keys: Any
) -> tuple[PrivateImages, list[str]]:
    data, notes = conditioned(family, data, job.settings, folder.captions)
    family.encode(data.images[:1])  # refuses images that the model does not take
    job.plan.sampler(data.unit_count, keys)  # refuses units without a slot, before anything is charged
    return data, notes


def _finish(
    job: Job,
    folder: RunFolder,
    model: Model,
    data: PrivateImages,
    account: Any,
    proportions: tuple[float, ...] | None,
    population: Population | None = None,
    teacher: Teacher | None = None,
) -> Release:
    if account is not None:
        account.settle()
    undone(model.family.network, job.runtime)
    release = write_release(
        folder,
        family=model.family,
        config=model.config,
        plan=job.plan,
        data=data,
        account=account,
        proportions=proportions,
        population=population,
        level=None if job.evolution is None else job.evolution.variation[1],
        public_images=None if model.public is None else model.public.record(),
        teacher=teacher,
        taught_by=None if model.teacher is None or teacher is None else model.teacher.record(),
        lost_queries=[TEACHER] if job.plan.queries and model.teacher is not None and teacher is None else [],
        warmed_by=None if model.moments is None else model.moments.record(),
    )
    folder.write(RUN, {**(folder.read(RUN) or {}), "done": True})
    folder.checkpoint.unlink(missing_ok=True)
    forget(folder.cache)
    forget(folder.captions)
    folder.sweep()
    return release


def require_unit(plan: Plan, data: PrivateImages) -> None:
    """Raises `ParameterError` unless the owners of the images are what the budget protects, as it does."""
    if plan.budget is not None and data.multi_owner and plan.budget.adjacency == "add_remove":
        raise ParameterError(
            f"images may belong to several of {data.unit!r}, whose ids are lists: one more or fewer of them "
            "would change whose images are used, which add_remove does not allow for",
            hint="budget.adjacency: zero_out, where the owners stay, and a new ledger, if this run began it; "
            "or one id an image, in a column that is no list",
        )
    if plan.budget is not None and plan.budget.unit != data.unit:
        raise ParameterError(
            f"the budget protects each {plan.budget.unit!r}, the unit of the images is {data.unit!r}",
            hint="give Budget and PrivateImages the same unit=",
        )


def _noted(job: Job, data: PrivateImages, folder: RunFolder) -> None:
    """Notes in the safe what would betray the images, and which take no part: dropped, or without a slot."""
    plan = job.plan
    note_traces(folder, data, ledger=None if plan.not_private else job.ledger)
    fixed = getattr(plan.mechanism, "max_units", None) is not None
    if data.multi_owner or fixed:
        population = plan.mechanism.population if fixed else None
        record = ownership_record(data.owner, data.dropped, population=population)
        folder.write(OWNERSHIP, {"unit": data.unit, "multi_owner": data.multi_owner, **record})


def _device(name: str, ranks: Ranks = ALONE.ranks) -> Any:
    """The device to train on. Raises `ParameterError` where there is none, or it cannot do the noise."""
    if name.startswith("mps"):
        raise ParameterError(
            "runtime.device mps has no float64, which sums and noise need", hint="set runtime.device to cpu"
        )
    return device_of_process(name, ranks)
