"""Gradients per owner of one layer, from what came in and the gradient of what went out: one pure function a
layer kind.

Guarantees: each rule equals the gradient of a batch of one; rows of different owners are never added;
products are taken in float32 or better whatever the model's precision. May import torch and the engine's
owners. Source: Goodfellow,
*Efficient Per-Example Gradient Computations* (2015, arXiv 1510.01799); Rochette et al. (2019, arXiv
1912.06015) for the grouped convolution.

A rule is `f(layer, inputs [R, ...], backprop [R, ...], owners) -> {parameter name: [U, *parameter.shape]}`
for owners of equally many rows (`applied` takes others apart), written out or, where `ghost_norms` says
that it is cheaper, `Postponed`. A new one needs `@rule(LayerType)`
and nothing else; the batch-of-one oracle in the tests picks it up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_diffusers.engine.conv_weights import conv2d_total, conv2d_written, settled
from dp_diffusers.engine.ghost_norms import (
    conv2d_lengths,
    conv2d_pays,
    linear_lengths,
    linear_pays,
)
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import Gradient, Postponed, written_out
from dp_diffusers.engine.precision import exact_products, precise

UnitGradients = dict[str, Gradient]
Rule = Callable[[nn.Module, Tensor, Tensor, RowOwners], UnitGradients]

_READ = ("weight", "bias")  # by every rule
_RULES: dict[type[nn.Module], tuple[Rule, tuple[str, ...]]] = {}


def rule(kind: type[nn.Module], *methods: str) -> Callable[[Rule], Rule]:
    """Registers a rule for `kind` and for subclasses that override neither `forward` nor any of `methods`."""

    def register(function: Rule) -> Rule:
        _RULES[kind] = (function, ("forward", *methods))
        return function

    return register


def rule_for(layer: nn.Module) -> Rule | None:
    """The rule of this layer's kind; None means that the generic one has to serve."""
    for kind in type(layer).__mro__:
        if kind in _RULES:
            function, methods = _RULES[kind]
            inherited = all(getattr(type(layer), name) is getattr(kind, name) for name in methods)
            return function if inherited else None
    return None


def applied(
    function: Rule, layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners
) -> UnitGradients:
    """What a rule finds; owners with other numbers of rows than each other are no business of each other.

    Those of equally many rows are a pass of their own, and all are contiguous, as rows that are picked out
    are. So how an owner's gradient is computed, and with that how it is rounded, follows from its own rows:
    where its positions cancel, the rounding is all there is, and it would be clipped to a direction of its
    own.
    """
    inputs, backprop = inputs.contiguous(), backprop.contiguous()
    if owners.fold:
        return function(layer, inputs, backprop, owners)
    found: dict[str, Tensor] = {}
    for alike in owners.alike:
        part = function(layer, inputs[alike.rows], backprop[alike.rows], alike.owners)
        for name, gradient in part.items():
            written = written_out(gradient)
            whole = found.setdefault(name, written.new_zeros(owners.count, *written.shape[1:]))
            whole[alike.positions] = written
    return dict(found)


def rule_kinds() -> list[type[nn.Module]]:
    """The layer kinds that have a rule of their own."""
    return list(_RULES)


def unread(layer: nn.Module) -> list[str]:
    """The trainable parameters that the layer owns and its rule does not know, but a hook may."""
    if rule_for(layer) is None:
        return []
    return [name for name in layer._parameters if name not in _READ and wants(layer, name)]


def wants(layer: nn.Module, name: str) -> bool:
    """Whether the layer owns a trainable parameter of this name."""
    parameter = layer._parameters.get(name)
    return parameter is not None and parameter.requires_grad


@rule(nn.Linear)
def linear(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Sum over positions (and folded rows) of the outer product of backprop and input."""
    found: UnitGradients = {}
    outgoing, incoming = _positions(inputs, backprop)
    if wants(layer, "bias"):
        found["bias"] = owners.sum_rows(outgoing.sum(1))
    if wants(layer, "weight"):
        found["weight"] = _linear_weight(outgoing, incoming, owners)
    return found


def _positions(inputs: Tensor, backprop: Tensor) -> tuple[Tensor, Tensor]:
    """Backprop `[R, T, p]` and input `[R, T, d]` of a linear layer."""
    outgoing, incoming = (
        t if t.ndim == 3 else t.flatten(1, -2) if t.ndim > 2 else t.unsqueeze(1)
        for t in precise(backprop, inputs)
    )
    return outgoing, incoming


def _linear_weight(outgoing: Tensor, incoming: Tensor, owners: RowOwners) -> Gradient:
    positions, wide, narrow = owners.fold * outgoing.shape[1], outgoing.shape[2], incoming.shape[2]
    if not (linear_pays(positions, wide, narrow) and exact_products(incoming.device)):
        return _linear_written(incoming, outgoing, owners)
    lengths, cancels = linear_lengths(owners.merge(outgoing), owners.merge(incoming))
    return Postponed(
        inputs=incoming,
        backprop=outgoing,
        owners=owners,
        shape=torch.Size((wide, narrow)),
        lengths=lengths,
        cancels=cancels,
        write=_linear_written,
        add_up=_linear_total,
    ).measured()


def _linear_written(incoming: Tensor, outgoing: Tensor, owners: RowOwners) -> Tensor:
    return owners.sum_rows(_outer(owners.merge(outgoing), owners.merge(incoming)))


def _outer(outgoing: Tensor, incoming: Tensor) -> Tensor:
    """`[B, T, O]` and `[B, T, I]` to `[B, O, I]`: the sum over T of outer products.

    The narrow side comes first, as a product of 8 x T by T x 240 takes half the time of one of 240 x T by
    T x 8 (measured on one CPU thread); adapters are narrow on one side.
    """
    if outgoing.shape[-1] <= incoming.shape[-1]:
        return torch.bmm(outgoing.mT, incoming)
    return torch.bmm(incoming.mT, outgoing).mT


def _linear_total(incoming: Tensor, outgoing: Tensor) -> Tensor:
    return outgoing.flatten(0, 1).mT @ incoming.flatten(0, 1)


@rule(nn.Conv2d, "_conv_forward")
def conv2d(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Correlation of input and backprop, row by row."""
    assert isinstance(layer, nn.Conv2d)
    found: UnitGradients = {}
    if wants(layer, "weight"):
        found["weight"] = _conv2d_weight(layer, inputs, backprop, owners)
    if wants(layer, "bias"):
        found["bias"] = owners.sum_rows(precise(backprop)[0].flatten(2).sum(2))
    return found


def _conv2d_weight(layer: nn.Conv2d, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> Gradient:
    inputs, backprop, padding = settled(layer, inputs, backprop)
    write = partial(conv2d_written, layer, padding)
    if not (
        layer.groups == 1
        and conv2d_pays(owners.fold, layer.weight, inputs, padding, backprop)
        and exact_products(inputs.device)
    ):
        return write(inputs, backprop, owners)
    lengths, cancels = conv2d_lengths(layer, inputs, backprop, padding, owners)
    return Postponed(
        inputs=inputs,
        backprop=backprop,
        owners=owners,
        shape=layer.weight.shape,
        lengths=lengths,
        cancels=cancels,
        write=write,
        add_up=partial(conv2d_total, layer, padding),
    ).measured()


@rule(nn.GroupNorm)
def group_norm(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Scale: sum over space of backprop times the normalised input, which is computed again; shift: without
    it."""
    assert isinstance(layer, nn.GroupNorm)
    inputs, backprop = (tensor.contiguous() for tensor in precise(inputs, backprop))
    found: UnitGradients = {}
    if wants(layer, "weight"):
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        found["weight"] = owners.sum_rows(normalised.mul_(backprop).reshape(*inputs.shape[:2], -1).sum(2))
    if wants(layer, "bias"):
        found["bias"] = owners.sum_rows(backprop.reshape(*inputs.shape[:2], -1).sum(2))
    return found


@rule(nn.LayerNorm)
def layer_norm(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Scale: sum over positions of backprop times the normalised input, which is computed again; shift:
    without it."""
    assert isinstance(layer, nn.LayerNorm)
    inputs, backprop = precise(inputs, backprop)
    shape = (owners.rows, -1, *layer.normalized_shape)
    found: UnitGradients = {}
    if wants(layer, "weight"):
        normalised = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        found["weight"] = owners.sum_rows((backprop * normalised).reshape(shape).sum(1))
    if wants(layer, "bias"):
        found["bias"] = owners.sum_rows(backprop.reshape(shape).sum(1))
    return found


@rule(nn.Embedding)
def embedding(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Backprops scattered straight into the table of their owner; the tables of single rows never exist."""
    assert isinstance(layer, nn.Embedding)
    if not wants(layer, "weight"):
        return {}
    (backprop,) = precise(backprop)
    size, width = layer.weight.shape
    places = inputs.reshape(owners.rows, -1) + size * owners.index[:, None]
    table = backprop.new_zeros(owners.count * size, width)
    table.index_add_(0, places.flatten(), backprop.reshape(-1, width))
    table = table.view(owners.count, size, width)
    if layer.padding_idx is not None:
        table[:, layer.padding_idx] = 0.0
    return {"weight": table}
