"""Gradients in float64, a cacheful at a time: small ones side by side, large ones by a few owners.

Guarantees: each value of each gradient is in exactly one block, beside values of the same owners and group
alone; a block is no larger than `_VALUES_PER_BLOCK`, or than one owner's gradient of one parameter. May
import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

_VALUES_PER_BLOCK = 1 << 17  # with half of it in float32, what a core's cache holds


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Values `[u, D]` (float64, one's own) of `owners`, of neighbouring parameters `places` of one group."""

    values: Tensor
    owners: slice
    places: slice
    group: int


def blocks(gradients: Sequence[Tensor | None], groups: Sequence[int]) -> Iterator[Block]:
    """The gradients `[U, *shape]` block by block; a parameter without one is in no block."""
    for places in _side_by_side(gradients, groups):
        parts = [
            as_stored(gradient, gradient).reshape(len(gradient), -1)
            for gradient in gradients[places]
            if gradient is not None
        ]
        owners = len(parts[0])
        size = max(1, _VALUES_PER_BLOCK // max(1, sum(part.shape[1] for part in parts)))
        for start in range(0, owners, size):
            chosen = slice(start, min(owners, start + size))
            values = torch.cat([part[chosen] for part in parts], 1).to(torch.float64, copy=True)
            yield Block(values=values, owners=chosen, places=places, group=groups[places.start])


def as_stored(tensor: Tensor, gradient: Tensor) -> Tensor:
    """`tensor`, turned as `gradient [U, *shape]` is in memory: a rule may leave rows and columns swapped.

    To copy the gradients of all owners row by row would cost more than the rest of a block.
    """
    swapped = gradient.ndim == 3 and not gradient.is_contiguous() and gradient.mT.is_contiguous()
    return tensor.mT if swapped else tensor


def _side_by_side(gradients: Sequence[Tensor | None], groups: Sequence[int]) -> Iterator[slice]:
    """Runs of neighbours of one group and type whose gradients fill no more than one block together."""

    def kind(place: int) -> tuple[int, torch.dtype] | None:
        gradient = gradients[place]
        return None if gradient is None else (groups[place], gradient.dtype)

    for found, alike in groupby(range(len(gradients)), kind):
        run: list[int] = []
        filled = 0
        for place in alike if found is not None else ():
            size = _values(gradients[place])
            if run and filled + size > _VALUES_PER_BLOCK:
                yield slice(run[0], place)
                run, filled = [], 0
            run.append(place)
            filled += size
        if run:
            yield slice(run[0], run[-1] + 1)


def _values(gradient: Tensor | None) -> int:
    return 0 if gradient is None else gradient.numel()
