"""Gradients per owner of one layer, from what came in and the gradient of what went out: one pure function a
layer kind.

Guarantees: each rule equals the gradient of a batch of one; rows of different owners are never added;
products are taken in float32 or better whatever the model's precision. May import torch and the engine's
owners. Source: Goodfellow,
*Efficient Per-Example Gradient Computations* (2015, arXiv 1510.01799); Rochette et al. (2019, arXiv
1912.06015) for the grouped convolution.

A rule is `f(layer, inputs [R, ...], backprop [R, ...], owners) -> {parameter name: [U, *parameter.shape]}`. A
new one needs `@rule(LayerType)` and nothing else; the batch-of-one oracle in the tests picks it up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from dp_diffusers.engine.owners import RowOwners

UnitGradients = dict[str, Tensor]
Rule = Callable[[nn.Module, Tensor, Tensor, RowOwners], UnitGradients]

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


def rule_kinds() -> list[type[nn.Module]]:
    """The layer kinds that have a rule of their own."""
    return list(_RULES)


def wants(layer: nn.Module, name: str) -> bool:
    """Whether the layer owns a trainable parameter of this name."""
    parameter = layer._parameters.get(name)
    return parameter is not None and parameter.requires_grad


def precise(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one common type of at least 32 bits."""
    kind = torch.float32
    for tensor in tensors:
        kind = torch.promote_types(kind, tensor.dtype)
    return [tensor.to(kind) for tensor in tensors]


@rule(nn.Linear)
def linear(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Sum over positions (and folded rows) of the outer product of backprop and input."""
    inputs, backprop = precise(inputs, backprop)
    outgoing, incoming = (t.flatten(1, -2) if t.ndim > 2 else t.unsqueeze(1) for t in (backprop, inputs))
    found: UnitGradients = {}
    if wants(layer, "bias"):
        found["bias"] = owners.sum_rows(outgoing.sum(1))
    if wants(layer, "weight"):
        if outgoing.is_contiguous() and incoming.is_contiguous():  # attention hands over transposed views
            outgoing, incoming = owners.merge(outgoing), owners.merge(incoming)
        found["weight"] = owners.sum_rows(_outer(outgoing, incoming))
    return found


def _outer(outgoing: Tensor, incoming: Tensor) -> Tensor:
    """`[B, T, O]` and `[B, T, I]` to `[B, O, I]`: the sum over T of outer products.

    The narrow side comes first, as a product of 8 x T by T x 240 takes half the time of one of 240 x T by
    T x 8 (measured on one CPU thread); adapters are narrow on one side.
    """
    if outgoing.shape[-1] <= incoming.shape[-1]:
        return torch.bmm(outgoing.mT, incoming)
    return torch.bmm(incoming.mT, outgoing).mT


@rule(nn.Conv2d, "_conv_forward")
def conv2d(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Correlation of input and backprop, row by row; activations may have any strides."""
    assert isinstance(layer, nn.Conv2d)
    inputs, backprop = (tensor.contiguous() for tensor in precise(inputs, backprop))
    found: UnitGradients = {}
    if wants(layer, "weight"):
        found["weight"] = _conv2d_weight(layer, inputs, backprop, owners)
    if wants(layer, "bias"):
        found["bias"] = owners.sum_rows(backprop.flatten(2).sum(2))
    return found


def _conv2d_weight(layer: nn.Conv2d, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> Tensor:
    inputs, padding = _padded(layer, inputs)
    if layer.kernel_size == layer.stride == (1, 1) and padding == (0, 0) and layer.groups == 1:
        product = torch.bmm(backprop.flatten(2), inputs.flatten(2).mT)
        return owners.sum_rows(product)[..., None, None]
    if inputs.is_cuda:
        return owners.sum_rows(_by_unfolding(layer, inputs, backprop, padding))
    return _by_grouping(layer, inputs, backprop, padding, owners)


def _padded(layer: nn.Conv2d, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Input and the zero padding left to do: other modes, "same" and "valid" are settled here."""
    if isinstance(layer.padding, tuple) and layer.padding_mode == "zeros":
        return inputs, (int(layer.padding[0]), int(layer.padding[1]))
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)


def _by_grouping(
    layer: nn.Conv2d, inputs: Tensor, backprop: Tensor, padding: tuple[int, int], owners: RowOwners
) -> Tensor:
    """All rows side by side as groups of one convolution, whose weight gradient is then the one of each row.

    K rows of an owner are summed inside where the gradients of single rows would be larger than their input
    (measured on one CPU thread: as fast as the plain weight gradient, 3 to 10 times faster than unfolding).
    """
    fold = owners.fold if owners.fold > 1 and layer.weight.numel() > inputs[0].numel() else 1
    groups = owners.rows // fold
    weight: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        _side_by_side(inputs, fold),
        (groups * layer.weight.shape[0], *layer.weight.shape[1:]),
        _side_by_side(backprop, fold),
        stride=layer.stride,
        padding=padding,
        dilation=layer.dilation,
        groups=groups * layer.groups,
    )
    return owners.sum_rows(weight.view(groups, *layer.weight.shape))


def _side_by_side(rows: Tensor, fold: int) -> Tensor:
    """`[R, C, H, W]` to `[K, (R/K)*C, H, W]`: owners become channel groups, the rows of one owner the
    batch."""
    grouped = rows.view(-1, fold, *rows.shape[1:])
    return grouped.transpose(0, 1).reshape(fold, -1, *rows.shape[2:])


def _by_unfolding(layer: nn.Conv2d, inputs: Tensor, backprop: Tensor, padding: tuple[int, int]) -> Tensor:
    """Patches times backprop (on a GPU thousands of groups would be slower than this)."""
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    grouped = patches.reshape(len(inputs) * layer.groups, -1, patches.shape[-1])
    outgoing = backprop.reshape(len(inputs) * layer.groups, -1, patches.shape[-1])
    return torch.bmm(outgoing, grouped.mT).view(len(inputs), *layer.weight.shape)


@rule(nn.GroupNorm)
def group_norm(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
    """Scale: sum over space of backprop times the normalised input, which is computed again; shift: without
    it."""
    assert isinstance(layer, nn.GroupNorm)
    inputs, backprop = (tensor.contiguous() for tensor in precise(inputs, backprop))
    found: UnitGradients = {}
    if wants(layer, "weight"):
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        found["weight"] = owners.sum_rows((backprop * normalised).reshape(*inputs.shape[:2], -1).sum(2))
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
