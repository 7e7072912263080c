"""Tensors in one piece, so that many small ones cross the network in one message.

Guarantee: what is unpacked is what was packed, bit for bit; the row that travelled is zeroed afterwards. May
import torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor

MOST_BYTES = 1 << 28  # of one message


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Tensors of one type and device, and `flat`: all of them in one row, where they travel."""

    tensors: list[Tensor]
    flat: Tensor

    def unpack(self) -> None:
        """Writes the row back into the tensors."""
        start = 0
        with torch.no_grad():
            for tensor in self.tensors:
                tensor.copy_(self.flat[start : start + tensor.numel()].view(tensor.shape))
                start += tensor.numel()
        self.flat.zero_()


def by_kind(tensors: Sequence[Tensor], *, everywhere: bool) -> Iterator[Parcel]:
    """Parcels of at most `MOST_BYTES` (or one tensor). everywhere: whether GPUs send on their own."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for members in kinds.values():
        part: list[Tensor] = []
        for tensor in members:
            if part and sum(map(_bytes, part)) + _bytes(tensor) > MOST_BYTES:
                yield _parcel(part, everywhere=everywhere)
                part = []
            part.append(tensor)
        yield _parcel(part, everywhere=everywhere)


def _parcel(tensors: list[Tensor], *, everywhere: bool) -> Parcel:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return Parcel(tensors=tensors, flat=flat if everywhere else flat.cpu())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def uses_nccl() -> bool:
    """Whether each process of this machine has a GPU of its own, and NCCL is there to join them.

    Processes that share a GPU send through the CPU.
    """
    if not (torch.cuda.is_available() and distributed.is_nccl_available()):
        return False
    return torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
