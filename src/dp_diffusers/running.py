"""A run around its loop, in the order that keeps it safe.

Guarantees:
- plan, base, strategy and dry run come first and touch no private byte; the whole cost is in the ledger
  before the first private pixel is read; a failure before the first charge cancels the reservation;
- public images that are private ones are refused before the first charge, however the run was called;
- the release is certified and verified before the run calls itself done.
May import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import yaml

from dp_diffusers.accounts import OWNERSHIP, account_of, forget_unspent
from dp_diffusers.arrangement import arrange, rehearse_arranged, undone
from dp_diffusers.base_of_run import require_base_of_run
from dp_diffusers.class_histogram import released_proportions, require_classes
from dp_diffusers.compiled_parts import uncompiled
from dp_diffusers.conditions import classes_of, conditioned, set_conditions
from dp_diffusers.data.ownership import ownership_record
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.devices import device_of
from dp_diffusers.diffusion.family import Family, family_of
from dp_diffusers.diffusion.generation import require_sampler
from dp_diffusers.diffusion.merged_from import require_bounded
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.evolution_population import Population, sampling_of
from dp_diffusers.evolving import Evolution, require_evolvable
from dp_diffusers.jobs import Job
from dp_diffusers.out_of_memory import told_in_one_line
from dp_diffusers.pass_size import PassSize, pass_size, sized
from dp_diffusers.plan import Plan
from dp_diffusers.plan_of_run import plan_of_run
from dp_diffusers.public_batches import PublicBatches, public_batches
from dp_diffusers.recipe import GenerationSettings, RuntimeSettings
from dp_diffusers.release import Release, write_release
from dp_diffusers.released_classes import declared_size
from dp_diffusers.row_store import forget
from dp_diffusers.run_folder import RUN, RunFolder
from dp_diffusers.saliency_choice import (
    chosen_layers,
    rehearsed_candidates,
    require_query,
    with_network,
)
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.sapf import Sapf
from dp_diffusers.training import Loop
from dp_diffusers.whole_files import write_text


@dataclass(kw_only=True)
class Model:
    """What is trained: the family, peft's configuration of its adapter, and public images mixed in.

    config: None where nothing is trained. candidates: where private images choose the layers, a copy of the
    network with all that may be chosen; nothing is adapted until they have. runtime: the job's, with the rows
    of a pass in numbers.
    """

    family: Family
    runtime: RuntimeSettings
    config: Any = None
    public: PublicBatches | None = None
    candidates: Any = None

    @property
    def largest(self) -> Family:
        """With all that a pass may have to take the gradient of."""
        return self.family if self.candidates is None else with_network(self.family, self.candidates)


def run(job: Job, folder: RunFolder) -> Release:
    """Trains, or goes on with it, and writes the release. Raises what the parts raise."""
    if not job.plan.not_private:
        _ = job.ledger_file  # the cheapest refusal first
        require_bounded(job.base.merged_from)
    with told_in_one_line():
        model = _prepared(job)
        folder.create()
        with folder.lock():
            if (folder.read(RUN) or {}).get("done"):
                raise RunFolderError(
                    f"another process has just finished {folder.root}", hint="run the same again"
                )
            return _run_alone(replace(job, runtime=model.runtime), folder, model)


def measured(job: Job) -> PassSize | None:
    """What a pass of this job takes here, on random tensors; None for an evolution, which has no passes.

    Nothing private is touched, no ledger and no folder. Raises what `run` raises before those.
    """
    once = job.runtime.model_copy(update={"rows_per_pass": 1})  # it is measured here, not twice
    with told_in_one_line():
        model = _prepared(replace(job, runtime=once))
        if job.evolution is not None:
            return None
        return pass_size(model.largest, job.plan, job.training, job.runtime)


def _prepared(job: Job) -> Model:
    """The adapted model on its device, rehearsed on random tensors; nothing private is touched."""
    training = job.training
    family = family_of(
        job.base,
        timesteps=training.timesteps,
        label_dropout=training.label_dropout,
        size=declared_size(job.settings),
    )
    require_classes(job.plan, classes_of(family, job.settings))
    device = _device(job.runtime.device)
    require_query(job.plan, None if job.evolution else strategy_of(job.strategy))
    if job.evolution is not None:
        require_evolvable(family, classes_of(family, job.settings), job.evolution)
        family.network.to(device)
        set_conditions(family, job.settings)
        require_sampler(family, sampling_of(job.evolution.generation))
        return Model(family=family, runtime=job.runtime)
    strategy, config, candidates = strategy_of(job.strategy), None, None
    if not isinstance(strategy, Sapf):
        config = strategy.apply(family.network, seed=training.seed)
    network = family.network.to(device).train()
    arrange(network, job.runtime, adapted=not isinstance(strategy, Sapf))
    set_conditions(family, job.settings)
    if isinstance(strategy, Sapf):
        candidates = rehearsed_candidates(family, strategy, training.seed)
    else:
        if job.runtime.compile:
            job.progress(message="compiling parts of the model, which can take minutes")
        rehearse_arranged(family, job.runtime)
    if job.settings.get("generation"):
        with uncompiled(job.runtime.compile):  # drawing would compile it once more, for nothing
            require_sampler(family, sampling_of(GenerationSettings(**job.settings["generation"])))
    public = public_batches(training.public, family, seed=training.seed, recipe=job.settings)
    model = Model(family=family, runtime=job.runtime, config=config, public=public, candidates=candidates)
    model.runtime = sized(job.runtime, model.largest, job.plan, training, job.progress)
    return model


def _run_alone(job: Job, folder: RunFolder, model: Model) -> Release:
    if not folder.recipe.exists():
        write_text(folder.recipe, yaml.safe_dump(job.settings, sort_keys=False, allow_unicode=True))
    account, fresh = None, folder.read(RUN) is None
    job = replace(job, plan=plan_of_run(job.plan, folder))
    require_base_of_run(job, folder)
    keys = job.plan.fresh_keys()
    try:
        account = None if job.plan.not_private else account_of(job, folder)
        if account is not None:
            account.open_lane(keys, folder=str(folder.root.resolve()))
        data = _data(job, folder, model, keys)
        proportions = released_proportions(
            job.plan,
            classes_of(model.family, job.settings),
            data=data,
            account=account,
            keys=keys,
            folder=folder,
            progress=job.progress,
        )
        _choose_layers(job, model, data=data, account=account, keys=keys, folder=folder)
        loop = _loop(job, model, data=data, account=account, keys=keys, folder=folder)
        loop.run()
    except BaseException:
        if not folder.checkpoint.exists():
            forget_unspent(account, folder, fresh)
        raise
    population = loop.population if isinstance(loop, Evolution) else None
    return _finish(job, folder, model, data, account, proportions, population)


def _choose_layers(job: Job, model: Model, **shared: Any) -> None:
    """Adapts the layers that the private images choose, where the strategy leaves that to them."""
    if model.candidates is None:
        return
    strategy, network = strategy_of(job.strategy), model.family.network
    shared |= {"plan": job.plan, "training": job.training, "runtime": job.runtime, "progress": job.progress}
    chosen = chosen_layers(strategy, model.candidates, family=model.family, **shared)
    model.candidates = None  # its memory is free for the training
    device = next(network.parameters()).device
    model.config = strategy.apply(network, seed=job.training.seed, chosen=chosen)
    arrange(network.to(device).train(), job.runtime)
    if job.runtime.compile:
        rehearse_arranged(model.family, job.runtime)


def _loop(job: Job, model: Model, **shared: Any) -> Loop | Evolution:
    """What the plan pays for: steps of a training, or iterations of an evolution."""
    shared |= {"family": model.family, "plan": job.plan, "progress": job.progress}
    if job.evolution is not None:
        classes = classes_of(model.family, job.settings)
        return Evolution(settings=job.evolution, classes=classes, **shared)
    return Loop(training=job.training, runtime=job.runtime, public=model.public, **shared)


def _data(job: Job, folder: RunFolder, model: Model, keys: Any) -> PrivateImages:
    """The private images, checked against plan, model and public images; here they are first read."""
    family = model.family
    data = job.open_data(family)
    require_unit(job.plan, data)
    if model.public is not None:
        model.public.refuse_private(data)
    data, notes = conditioned(family, data, folder.captions)
    family.encode(data.images[:1])  # refuses images that the model does not take
    job.plan.sampler(data.unit_count, keys)  # refuses units without a slot, before anything is charged
    _note_ownership(job.plan, data, folder)
    for note in [*data.notes, *notes]:
        job.progress(message=note)
    return data


def _finish(
    job: Job,
    folder: RunFolder,
    model: Model,
    data: PrivateImages,
    account: Any,
    proportions: tuple[float, ...] | None,
    population: Population | None = None,
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
    )
    release.base = job.base if job.base.in_memory else None
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
