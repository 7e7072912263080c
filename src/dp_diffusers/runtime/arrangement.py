"""How a network runs, as `runtime` asks for: memory layout, gradient checkpointing, compiled parts.

Guarantees: what it computes stays the same but for rounding; `undone` takes it back. May
import torch; joins the engine's checkpointing with diffusers' switch for it. Nothing here is part of a
plan: epsilon does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from dp_diffusers.diffusion.family import Family
from dp_diffusers.engine.checkpointing import checkpointed
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import written_out
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import ModelError, ParameterError
from dp_diffusers.loop.rehearsal import ROWS, random_losses, rehearse
from dp_diffusers.recipe import RuntimeSettings
from dp_diffusers.runtime.compiled_parts import (
    compile_parts,
    compiling,
    drop_compiled,
    require_compiler,
    uncompiled,
)

_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}  # of what compiled parts give, beside the same uncompiled


def arrange(network: nn.Module, runtime: RuntimeSettings, *, adapted: bool = True) -> None:
    """For a network on its device; again does no harm.

    adapted: whether it is known what is trained. Nothing is compiled before, but a missing compiler shows.
    Raises `ParameterError` for a network that knows no checkpointing, and where nothing can be compiled.
    """
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if runtime.gradient_checkpointing:
        _require_checkpointing(network)
        network.enable_gradient_checkpointing(gradient_checkpointing_func=_run_again_later)  # type: ignore[operator]
    if runtime.compile:
        require_compiler(next(network.parameters()).device)
        if adapted:
            compile_parts(network)


def in_precision(runtime: RuntimeSettings, device: torch.device) -> AbstractContextManager[Any]:
    """The forward pass in the precision of the run."""
    kind = getattr(torch, runtime.dtype)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not torch.float32)


def rehearse_arranged(family: Family, runtime: RuntimeSettings) -> None:
    """The rehearsal of the network as it runs; compiled parts are compiled, and compared with themselves.

    Raises what `rehearse` does, `ParameterError` where a part cannot be compiled, `ModelError` where that
    changes the gradients.
    """
    if not runtime.compile:
        return rehearse(family)
    with uncompiled():
        rehearse(family)
        expected = _gradients(family, runtime)
    with compiling():
        found = _gradients(family, runtime)
    error = float((found - expected).norm() / expected.norm())
    if not error <= _TOLERANCES[runtime.dtype]:
        raise ModelError(
            f"the compiled model has other gradients (by {error:.0e})", hint="leave runtime.compile out"
        )
    return None


def _gradients(family: Family, runtime: RuntimeSettings) -> torch.Tensor:
    """`[ROWS, D]`: of random rows, each a unit of its own."""
    losses, source = random_losses(family), HookedUnitGradients(family.network)
    device = source.parameters[0].device
    everyone = torch.arange(ROWS, device=device)
    try:
        with in_precision(runtime, device):
            found = losses(everyone)
        gradients = source.compute(found, torch.ones_like(found), RowOwners.of(everyone))
    finally:
        source.close()
    written = (written_out(gradient) for gradient in gradients if gradient is not None)
    return torch.cat([gradient.double().flatten(1) for gradient in written], 1)


def undone(network: nn.Module, runtime: RuntimeSettings) -> None:
    """Takes back what `arrange` did."""
    if runtime.compile:
        drop_compiled(network)
    if runtime.gradient_checkpointing:
        network.disable_gradient_checkpointing()  # type: ignore[operator]
    if runtime.channels_last:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _run_again_later(part: Callable[..., Any], *args: Any) -> Any:
    return checkpointed(part, *args)


def _require_checkpointing(network: nn.Module) -> None:
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise ParameterError(
            f"{type(network).__name__} knows no gradient checkpointing",
            hint="leave runtime.gradient_checkpointing out",
        )
