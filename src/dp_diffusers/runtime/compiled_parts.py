"""`torch.compile` for the parts of a network that nothing is trained in.

Guarantees:
- a part that holds a trained layer stays as it is: hooks and graph edges, and with them the unit gradients,
  are those of the uncompiled network;
- everything is compiled on random tensors; `as_compiled` never compiles for a number of rows, which would
  leave the size of a private batch in a cache on disk, but runs the part uncompiled.
May import torch. The first dimension is compiled as a variable, so that a pass of any size needs no rows of
padding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from dp_diffusers.errors import ParameterError

_VERSIONS = 1024


def compile_parts(network: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> list[nn.Module]:
    """Marks the largest parts without trained layers; they are compiled when they first run.

    backend: of `torch.compile`. Returns: the parts. Raises `ParameterError` where there is none.
    """
    parts = list(_parts(network))
    if not parts:
        raise ParameterError(
            "no part of the model is left to compile: the strategy trains a layer in each",
            hint="leave runtime.compile out, or train fewer layers",
        )
    for part in parts:
        if not _is_compiled(part):
            part._compiled_call_impl = _compiled(part, backend)
    return parts


def require_compiler(device: torch.device) -> None:
    """Compiles next to nothing. Raises `ParameterError` where that cannot be done."""
    try:
        torch.compile(lambda values: values * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # of torch's, of the compiler's, of the system's
        raise _not_here(error) from error


def drop_compiled(network: nn.Module) -> None:
    """The network uncompiled."""
    for module in network.modules():
        module._compiled_call_impl = None


@contextmanager
def compiling() -> Iterator[None]:
    """While parts run for the first time. Raises `ParameterError` where one cannot be compiled."""
    with _for_all_parts(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on how it reads diffusers' code
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:
            raise _not_here(error) from error


def as_compiled(compiled: bool) -> AbstractContextManager[None]:
    """Around passes with private rows: what is compiled runs so, and nothing is compiled any more."""
    return torch.compiler.set_stance("eager_on_recompile") if compiled else nullcontext()


def uncompiled(compiled: bool = True) -> AbstractContextManager[None]:
    """The network as it would run without: for comparison, and where it is not trained."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _compiled(part: nn.Module, backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """What `part.compile()` would put there, told that rows are a variable before the first two passes show
    it: everything is compiled once."""
    run = torch.compile(part._call_impl, backend=backend)

    def call(*args: Any, **kwargs: Any) -> Any:
        _mark_rows([*args, *kwargs.values()])
        return run(*args, **kwargs)

    return call


def _mark_rows(values: list[Any]) -> None:
    """The first tensor has the rows first, and so has every other one of that length."""
    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.ndim > 0]
    for tensor in tensors:
        if len(tensor) == len(tensors[0]):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if _fits(child):
            yield child
        else:
            yield from _parts(child)


def _fits(module: nn.Module) -> bool:
    """A single layer gains nothing; a container is never called; checkpointing starts outside of the part."""
    parameters = list(module.parameters())
    return (
        bool(parameters)
        and not any(parameter.requires_grad for parameter in parameters)
        and any(True for _ in module.children())
        and type(module).forward is not nn.Module.forward
        and not any(getattr(inner, "gradient_checkpointing", False) for inner in module.modules())
    )


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None


def _for_all_parts() -> AbstractContextManager[None]:
    import torch._dynamo as dynamo

    # the code of a part is that of every module: its versions are those of all parts together
    limits = {"recompile_limit": _VERSIONS, "accumulated_recompile_limit": _VERSIONS}
    return dynamo.config.patch(limits)  # type: ignore[no-any-return]


def _not_here(error: Exception) -> ParameterError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ParameterError(
        f"the model cannot be compiled here: {reason}",
        hint="torch.compile needs a C++ compiler such as g++, on a GPU Triton; or leave runtime.compile out",
    )
