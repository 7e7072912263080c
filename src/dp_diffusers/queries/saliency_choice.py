"""The layers that a run adapts where its private images choose them: asked once, kept in the safe.

Guarantees:
- whenever a process dies, a choice that is used was paid for, and one that was lost is paid for again;
- the gradient is that of the layers' adapters at their start, on a copy of the network, so that the network
  that is trained has adapters on the chosen layers alone.
May import torch, the strategy and the mechanism. What is computed from the noisy gradient is post-processing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from torch import nn

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.errors import ParameterError
from dp_diffusers.loop.rehearsal import rehearse
from dp_diffusers.mechanisms.saliency import (
    NAME,
    QueryKeys,
    query_of,
    released_energies,
    saliency_gradient,
)
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.strategies.sapf import Sapf, choose
from dp_diffusers.training import Loop
from dp_diffusers.undisturbed import undisturbed

FILE: Final = "saliency.json"
_FACTOR: Final = ".lora_B."  # at its start B is 0 and A has no gradient


def require_query(plan: Any, strategy: Any) -> None:
    """Raises `ParameterError` unless the plan pays for a choice of layers just where one is to be made."""
    asks, pays = isinstance(strategy, Sapf), query_of(plan.queries) is not None
    if asks and not pays:
        raise ParameterError(
            "strategy sapf chooses its layers by a query that the plan does not pay for",
            hint="Plan.calibrate(budget, mechanism, [saliency_query(budget, mechanism)])",
        )
    if pays and not asks:
        raise ParameterError(
            "the plan pays for a choice of layers that the strategy does not make",
            hint="use the strategy sapf, or calibrate a plan without the query",
        )


def rehearsed_candidates(family: Family, strategy: Sapf, seed: int) -> nn.Module:
    """A copy of the network with adapters on every layer that may be chosen, rehearsed on random tensors."""
    trial = with_network(family, copy.deepcopy(family.network))
    strategy.apply(trial.network, seed=seed, chosen=strategy.candidates(trial.network))
    trial.network.to(next(family.network.parameters()).device).train()
    rehearse(trial)
    return trial.network


def chosen_layers(
    strategy: Sapf,
    candidates: nn.Module,
    *,
    family: Family,
    data: PrivateImages,
    plan: Any,
    account: Any,
    keys: Any,
    folder: RunFolder,
    training: TrainingSettings,
    runtime: RuntimeSettings,
    progress: Callable[..., None],
) -> list[str]:
    """Names of the layers to adapt. candidates: from `rehearsed_candidates`.

    account: the run's reservation, with the lane of `keys` open. The first call pays and asks; later ones, of
    any process, use what it kept.
    """
    saliency = _kept(folder, account)
    if saliency is None:
        asked = QueryKeys(keys)
        loop = Loop(
            family=with_network(family, candidates),
            data=data,
            plan=plan,
            account=None,
            keys=asked,
            training=training,
            runtime=runtime,
            folder=folder,
            progress=progress,
        )
        saliency = _asked(loop, candidates, plan, account, asked, folder)
    chosen = choose(saliency, strategy.fraction)
    progress(message=f"{len(chosen)} of {len(saliency)} layers get an adapter")
    return chosen


def _asked(
    loop: Loop, candidates: nn.Module, plan: Any, account: Any, keys: QueryKeys, folder: RunFolder
) -> dict[str, float]:
    """The query: sample, clip, pay, add noise, keep."""
    query = query_of(plan.queries)
    assert query is not None
    layers = _only_factors(candidates)
    box = saliency_gradient(candidates, query, keys, plan.fingerprint)
    loop.encodings.prepare(loop.progress)
    sampler = plan.sampler(loop.table.unit_count, keys)
    loop.collect(box, 0, sampler.units(0))
    with undisturbed():  # what is lost from here on was paid for
        saliency = released_energies(box, layers, query, account.charge_query(NAME))  # pay, then noise
        folder.write(FILE, {"lane": keys.lane.hex(), "saliency": saliency})
    return saliency


def _only_factors(network: nn.Module) -> list[str]:
    """Leaves the adapters' B factors trainable alone. Returns: the layer of each, in the network's order."""
    layers = []
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and _FACTOR in name and name.endswith("weight"))
        if parameter.requires_grad:
            layers.append(name.partition(_FACTOR)[0])
    return layers


def with_network(family: Family, network: nn.Module) -> Family:
    """The same family, texts included, on another network."""
    other = copy.copy(family)
    other.base = replace(family.base, network=network)
    return other


def _kept(folder: RunFolder, account: Any) -> dict[str, float] | None:
    """The saliencies of an earlier start, if this run has paid for them in this ledger."""
    known = folder.read(FILE)
    if known is None or not account.has_paid(NAME, known["lane"]):
        return None
    return {layer: float(value) for layer, value in known["saliency"].items()}
