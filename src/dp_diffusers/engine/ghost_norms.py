"""Lengths of owners' gradients without the gradients: from Gram matrices of inputs and of backprops.

Guarantees: Gram matrices in float64, so that values of 1e30 do not overflow; an owner whose positions
cancel is named; what is not finite, or too large for float32 sums, has the length infinity. May import torch
and the engine's postponed gradients. Sources: Li et al. (2021, arXiv 2110.05679) for linear layers, Bu et al.
(2022, arXiv 2205.10683) for convolutions and for the choice by layer.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import LARGEST_BACKPROP, LARGEST_INPUT, LARGEST_SUM, measured

# Nanoseconds on one CPU thread: they decide which way is taken, never what comes out.
_WRITTEN: Final = 2.2  # to write an entry of an owner's gradient, square it and add it, the latter in float64
_GRAM: Final = 0.06  # a product of a float64 Gram matrix
_SHIFTED: Final = 0.8  # to add an entry of a shifted Gram matrix
_CAST: Final = 0.5  # to read an entry as float64
_OVERHEAD: Final = 1e5  # of the operations themselves, whatever their size
_OWNERS: Final = 32  # in a pass, as if it were always so: who else comes must not decide for anyone


def linear_pays(positions: int, outgoing: int, incoming: int) -> bool:
    """Whether lengths first are cheaper for a linear layer. positions: of one owner."""
    gram = positions * (outgoing + incoming) * (_GRAM * positions + _CAST)
    return _OWNERS * (_WRITTEN * outgoing * incoming - gram) > _OVERHEAD


def conv2d_pays(
    fold: int, weight: Tensor, inputs: Tensor, padding: tuple[int, int], backprop: Tensor
) -> bool:
    """Whether lengths first are cheaper for a convolution. fold: rows of one owner."""
    pixels = fold * (inputs.shape[2] + 2 * padding[0]) * (inputs.shape[3] + 2 * padding[1])
    positions = fold * backprop.shape[2] * backprop.shape[3]
    gram = _GRAM * (pixels**2 * inputs.shape[1] + positions**2 * backprop.shape[1])
    shifted = _SHIFTED * positions**2 * weight.shape[2] * weight.shape[3]
    cast = _CAST * (pixels * inputs.shape[1] + positions * backprop.shape[1])
    return _OWNERS * (_WRITTEN * weight.numel() - gram - shifted - cast) > _OVERHEAD


def linear_lengths(outgoing: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
    """As `measured`, of the sums over positions of outer products of `[U, T, p]` and `[U, T, d]`."""
    inner = _gram(incoming.mT)
    return _lengths(_gram(outgoing.mT), inner, inner)


def conv2d_lengths(
    layer: nn.Conv2d, inputs: Tensor, backprop: Tensor, padding: tuple[int, int], owners: RowOwners
) -> tuple[Tensor, Tensor]:
    """As `measured`. The Gram matrix of patches is the sum of that of pixels shifted by each place of the
    kernel, so that no patch is ever written out."""
    down, across = padding
    if down or across:
        inputs = F.pad(inputs, (across, across, down, down))
    pixels = _gram(_by_owner(inputs, owners))
    patches = _shifted(layer, pixels.view(owners.count, *(owners.fold, *inputs.shape[2:]) * 2), backprop)
    return _lengths(_gram(_by_owner(backprop, owners)), patches, pixels)


def _shifted(layer: nn.Conv2d, pixels: Tensor, backprop: Tensor) -> Tensor:
    """From the Gram matrix of pixels `[U, K, H, W, K, H, W]` to that of patches `[U, T, T]`."""
    count, fold = pixels.shape[:2]
    high, wide = backprop.shape[2:]
    patches = pixels.new_zeros(count, *(fold, high, wide) * 2)
    for row, column in product(*map(range, layer.kernel_size)):
        rows = _places(row * layer.dilation[0], high, layer.stride[0])
        columns = _places(column * layer.dilation[1], wide, layer.stride[1])
        patches += pixels[:, :, rows, columns, :, rows, columns]
    return patches.view(count, fold * high * wide, -1)


def _places(first: int, count: int, stride: int) -> slice:
    return slice(first, first + (count - 1) * stride + 1, stride)


def _by_owner(rows: Tensor, owners: RowOwners) -> Tensor:
    """`[R, C, H, W]` to `[U, C, K*H*W]`."""
    flat = rows.flatten(2)
    if owners.fold == 1:
        return flat
    return flat.view(owners.count, owners.fold, *flat.shape[1:]).transpose(1, 2).flatten(2)


def _gram(columns: Tensor) -> Tensor:
    """`[U, D, T]` to `[U, T, T]` float64, the products of the columns."""
    precise = columns.to(torch.float64)
    return torch.bmm(precise.mT, precise)


def _lengths(outgoing: Tensor, incoming: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """From the Gram matrices of backprops and of what they are multiplied with, `[U, T, T]`, and of all
    inputs."""
    ours, theirs, all_inputs = (gram.diagonal(dim1=1, dim2=2) for gram in (outgoing, incoming, inputs))
    absolute = torch.linalg.vecdot(ours.sqrt(), theirs.sqrt())
    lengths, cancels = measured(
        torch.linalg.vecdot(outgoing.flatten(1), incoming.flatten(1)), absolute, outgoing.shape[1]
    )
    # written so that a NaN is not tame
    tame = (ours.amax(1) < LARGEST_BACKPROP**2) & (all_inputs.amax(1) < LARGEST_INPUT**2)
    tame = tame & (absolute < LARGEST_SUM)
    return torch.where(tame, lengths, torch.inf), cancels & tame
