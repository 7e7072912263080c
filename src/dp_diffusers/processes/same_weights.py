"""Whether processes hold the same weights: a number that says so at the cost of one look at each weight.

Guarantee: whole-number arithmetic, so that it is the same on every machine. May import torch. It finds
accidents, such as two kinds of GPU that round apart; it is no signature.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

_WORDS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FACTOR: Final = 1_000_003
_MODULUS: Final = 2**61 - 1


def sums_of_bits(tensors: Iterable[Tensor]) -> int:
    """One number of the bits of all tensors, in their order."""
    sums = [
        tensor.detach().reshape(-1).view(_WORDS[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in tensors
    ]
    number = 0
    for total in torch.stack(sums).tolist() if sums else []:
        number = (number * _FACTOR + total) % _MODULUS
    return number
