"""Many tensors as one vector and back, so that what is done to every number is done once, not once a tensor.

Guarantee: `apart` undoes `together`, place by place. May import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def together(tensors: Sequence[Tensor]) -> Tensor:
    """`[D]`: the values of all tensors, one tensor after the other."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def apart(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of `vector [D]` in the shapes of `like`, in order."""
    pieces = torch.split(vector, [tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]
