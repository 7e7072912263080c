"""Encoded prompts as tensors, in place of the arrays that a run keeps.

Guarantees that a row is found without leaving torch, so that `torch.func.vmap` can follow. May import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TensorTable:
    """columns: by name, `[P + 1, ...]` of what the network takes of each prompt."""

    columns: Mapping[str, Tensor]

    def rows(self, labels: Tensor) -> dict[str, Tensor]:
        """`[R, ...]` of each column, on the device of `labels` `[R]`."""
        return {name: column.to(labels.device)[labels] for name, column in self.columns.items()}
