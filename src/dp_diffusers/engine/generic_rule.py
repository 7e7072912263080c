"""Gradients per owner of any module that itself owns parameters: its forward, differentiated row by row under
vmap.

Guarantees: exact for modules that treat rows independently, refused by name where vmap cannot follow the
forward. May import torch and the engine's owners. Source: torch.func (`vmap`, `vjp`, `functional_call`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dp_diffusers.engine.layer_rules import UnitGradients, wants
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a module: positional and keyword arguments, tensors among them detached."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """A call with its tensors cut from the graph."""
        named = {key: detached(value) for key, value in kwargs.items()}
        return cls(layer=layer, args=tuple(map(detached, args)), kwargs=named)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensor arguments."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]

    @property
    def first_input(self) -> Tensor | None:
        """The input of a layer that takes one."""
        tensors = self.tensors
        return tensors[0] if tensors else None


def detached(value: Any) -> Any:
    """The value, cut from the graph if it is a tensor (same memory)."""
    return value.detach() if isinstance(value, Tensor) else value


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in a module's output: one tensor, a sequence or a mapping of them."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    if not isinstance(values, Iterable):
        return []
    return [value for value in values if isinstance(value, Tensor)]


def by_vmap(name: str, call: Call, backprops: list[Tensor | None], owners: RowOwners) -> UnitGradients:
    """Gradients `[U, *shape]` of the parameters that `call.layer` owns itself.

    Tensor arguments whose first dimension is R are cut into rows; those without dimensions, or with a first
    one of 1, are handed to every row as they are. Raises `ModelError` that names the layer for others, and
    when its forward cannot be differentiated row by row.
    """
    _refuse_tables(name, call, owners)
    layer = call.layer
    own = {key: p.detach() for key, p in layer._parameters.items() if p is not None and wants(layer, key)}
    used = [place for place, backprop in enumerate(backprops) if backprop is not None]
    flows = [backprop for backprop in backprops if backprop is not None]
    keys = list(call.kwargs)
    values = [*call.args, *call.kwargs.values()]
    rowwise = [place for place, value in enumerate(values) if _has_rows(value, owners.rows)]

    def one_row(slices: list[Tensor], cotangents: list[Tensor]) -> dict[str, Tensor]:
        given = list(values)
        for place, piece in zip(rowwise, slices):
            given[place] = piece.unsqueeze(0)
        split = len(given) - len(keys)

        def forward(parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
            arguments = tuple(given[:split])
            out = torch.func.functional_call(layer, parameters, arguments, dict(zip(keys, given[split:])))
            outputs = tensors_of(out)
            return tuple(outputs[place].squeeze(0) for place in used)

        gradients: dict[str, Tensor] = torch.func.vjp(forward, own)[1](tuple(cotangents))[0]
        return gradients

    try:
        rows = torch.func.vmap(one_row)([values[place] for place in rowwise], flows)
    except (RuntimeError, ValueError, TypeError, IndexError) as problem:
        raise ModelError(
            f"layer {name}: {type(layer).__name__} has no gradient rule ({str(problem).splitlines()[0]})",
            hint="freeze its parameters, or move them into nn.Linear, nn.Conv2d or a norm layer",
        ) from problem
    return {key: owners.sum_rows(_at_least_float32(gradient)) for key, gradient in rows.items()}


def _refuse_tables(name: str, call: Call, owners: RowOwners) -> None:
    """A table of T entries for all rows would be taken for rows in a pass of T of them: so it never is."""
    if any(tensor.ndim > 0 and len(tensor) not in (1, owners.rows) for tensor in call.tensors):
        raise ModelError(
            f"layer {name}: {type(call.layer).__name__} is given a tensor that is not one row per loss",
            hint="give what is the same for all rows a first dimension of 1, or make it the layer's buffer",
        )


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


def _at_least_float32(gradient: Tensor) -> Tensor:
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))
