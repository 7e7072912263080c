"""The input of a trained linear layer, laid out as autograd keeps it, so that it is in memory once.

Guarantee: the same values in another layout, or the input itself. May import torch. `nn.Linear` sees all
positions as rows of one matrix: of an input that is no such matrix in memory (a slice of longer sequences, a
transposed picture) it keeps a copy for its weight. A hook that keeps the input beside that copy keeps alive
what the input is a view of, which an ordinary step has let go.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def lay_out(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A forward pre-hook: the layer makes no copy of its own any more, and hooks after it see this one."""
    del layer
    if not args or not isinstance(args[0], Tensor) or not torch.is_grad_enabled() or _is_matrix(args[0]):
        return None
    return (args[0].contiguous(), *args[1:])


def _is_matrix(inputs: Tensor) -> bool:
    """Whether `[..., d]` can be viewed as `[positions, d]`."""
    wide = [
        (size, stride)
        for size, stride in zip(inputs.shape[:-1], inputs.stride()[:-1], strict=True)
        if size != 1
    ]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(wide))
