"""The frozen base in pieces, one for each process, so that it need not fit in one: FSDP2 of torch.

Guarantees: what is trained stays whole in every process, outside of FSDP, so that hooks, clipping and noise
see what they always see; unit gradients are those of the whole model up to rounding. May import torch. With a
base in pieces every process makes as many passes as any other, as each pass gathers the pieces of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from dp_diffusers.errors import ParameterError
from dp_diffusers.processes.team import Team
from dp_diffusers.recipe import RuntimeSettings
from dp_diffusers.strategies.frozen_a import FrozenA
from dp_diffusers.strategies.lora import Lora

KEY = "runtime.shard_base"


def require_shardable(
    strategy: Any, team: Team, device: torch.device, runtime: RuntimeSettings, *, in_memory: bool
) -> None:
    """Raises `ParameterError` where the base cannot lie in pieces."""
    if not team.several:
        raise ParameterError(
            f"{KEY} needs several processes", hint=f"start it with torchrun, or set {KEY}: false"
        )
    if not isinstance(strategy, Lora | FrozenA):
        raise ParameterError(
            f"{KEY} shares out frozen weights, and this strategy trains weights of the base",
            hint=f"set strategy.name to lora or frozen_a, or {KEY}: false",
        )
    if in_memory:
        raise ParameterError(
            f"{KEY} takes a base apart, and this one is in memory", hint="give a diffusers folder or a hub id"
        )
    for name in ("channels_last", "gradient_checkpointing", "compile"):
        if getattr(runtime, name):
            raise ParameterError(
                f"{KEY} and runtime.{name} were not tried together", hint="leave one of them out"
            )
    if runtime.rows_per_pass == "auto":
        raise ParameterError(
            f"{KEY} needs a number of rows: all processes make the same passes, and none measures alone",
            hint="set runtime.rows_per_pass, such as 16",
        )
    there = torch.cuda.device_count() if device.type == "cuda" else 0
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if device.type == "cuda" and there < wanted:
        raise ParameterError(
            f"{KEY} needs a GPU for each process, and there are {there} for {wanted}", hint="start fewer"
        )


def shard_frozen(network: nn.Module, device: torch.device, seconds: float) -> None:
    """Leaves in each process a piece of every frozen weight of `network`, on `device`, and whole what trains.

    seconds: how long a pass waits for the pieces of another process. Every process calls it.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    backend = "nccl" if device.type == "cuda" else "gloo"
    group = distributed.new_group(backend=backend, timeout=timedelta(seconds=seconds))
    mesh = DeviceMesh.from_group(group, device.type)
    trained = {parameter for parameter in network.parameters() if parameter.requires_grad}
    for block in blocks(network):
        fully_shard(block, mesh=mesh, ignored_params=trained)
    fully_shard(network, mesh=mesh, ignored_params=trained)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of lists of layers: blocks of a UNet or a transformer, gathered one at a time."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks(child)
