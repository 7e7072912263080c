"""Weight gradients of a convolution: of each owner, or summed over all rows.

Guarantees: each equals that of a batch of one, whatever the strides of the activations; rows of different
owners are added only where the sum over all is asked for; a lone owner is rounded as among others. May
import torch and the engine's owners. Source: Rochette et al. (2019, arXiv 1912.06015) for the grouped
convolution.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.precision import precise

_FEW_POSITIONS: Final = 32  # of an output, where a convolution of groups is slower than one of patches


def settled(layer: nn.Conv2d, inputs: Tensor, backprop: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Input and backprop as the formulas need them, and the zero padding left to do."""
    inputs, backprop = (tensor.contiguous() for tensor in precise(inputs, backprop))
    inputs, padding = _padded(layer, inputs)
    return inputs, backprop, padding


def conv2d_written(
    layer: nn.Conv2d, padding: tuple[int, int], inputs: Tensor, backprop: Tensor, owners: RowOwners
) -> Tensor:
    """`[U, *shape]`, of settled inputs and backprops."""
    if layer.kernel_size == layer.stride == (1, 1) and padding == (0, 0) and layer.groups == 1:
        product = torch.bmm(backprop.flatten(2), inputs.flatten(2).mT)
        return owners.sum_rows(product)[..., None, None]
    if inputs.is_cuda or backprop[0, 0].numel() <= _FEW_POSITIONS:
        return owners.sum_rows(_by_unfolding(layer, inputs, backprop, padding))
    return _by_grouping(layer, inputs, backprop, padding, owners)


def conv2d_total(layer: nn.Conv2d, padding: tuple[int, int], inputs: Tensor, backprop: Tensor) -> Tensor:
    """The plain weight gradient `[*shape]` over all rows, of settled inputs and backprops."""
    if inputs.is_cuda:  # cuDNN would take products of TF32
        patches = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
        return torch.einsum("rpt,rdt->pd", backprop.flatten(2), patches).view(layer.weight.shape)
    total: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        inputs,
        layer.weight.shape,
        backprop,
        stride=layer.stride,
        padding=padding,
        dilation=layer.dilation,
    )
    return total


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
    One group alone is twice there: its own kernel rounds otherwise, so that other owners would decide on it.
    """
    fold = owners.fold if owners.fold > 1 and layer.weight.numel() > inputs[0].numel() else 1
    alone = owners.rows == fold
    if alone:
        inputs, backprop = _twice(inputs), _twice(backprop)
    groups = len(inputs) // fold
    weight: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        _side_by_side(inputs, fold),
        (groups * layer.weight.shape[0], *layer.weight.shape[1:]),
        _side_by_side(backprop, fold),
        stride=layer.stride,
        padding=padding,
        dilation=layer.dilation,
        groups=groups * layer.groups,
    )
    each = weight.view(groups, *layer.weight.shape)
    return owners.sum_rows(each[:1] if alone else each)


def _twice(rows: Tensor) -> Tensor:
    return rows.repeat(2, 1, 1, 1)


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
