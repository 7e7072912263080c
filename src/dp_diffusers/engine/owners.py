"""Which row of a pass belongs to which owner (unit of privacy), and how the rows of one owner are summed.

Guarantees: rows are only ever added within one owner, whatever their order and number. May import torch,
nothing else of the package but the errors. A row is one image, one noise draw, one augmentation; K of them
make one owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dp_diffusers.errors import GuaranteeError


@dataclass(frozen=True, kw_only=True)
class RowOwners:
    """The owners of the R rows of one pass.

    `ids`: the U distinct owners. `index`: `[R]`, the position of each row's owner in `ids`.
    `fold`: K when the rows come as U contiguous groups of K rows each, else 0.
    """

    ids: list[int]
    index: Tensor
    fold: int

    @classmethod
    def of(cls, owner: Tensor) -> RowOwners:
        """Reads `owner [R]` (int64). Raises `GuaranteeError` unless it is a vector of whole numbers."""
        if owner.ndim != 1 or owner.dtype != torch.int64:
            raise GuaranteeError(f"expected owner as int64 [R], got {owner.dtype} {list(owner.shape)}")
        runs, counts = torch.unique_consecutive(owner, return_counts=True)
        ids, sizes = runs.tolist(), counts.tolist()
        if len(set(ids)) == len(ids) and len(set(sizes)) <= 1:
            size = sizes[0] if sizes else 1
            index = torch.arange(len(ids), device=owner.device).repeat_interleave(size)
            return cls(ids=ids, index=index, fold=size)
        distinct, index = torch.unique(owner, return_inverse=True)
        return cls(ids=distinct.tolist(), index=index, fold=0)

    @property
    def rows(self) -> int:
        """R, the number of rows."""
        return len(self.index)

    @property
    def count(self) -> int:
        """U, the number of distinct owners."""
        return len(self.ids)

    def count_without(self, filling: int) -> int:
        """How many owners have rows before the last `filling` ones, which belong to nobody.

        Raises `GuaranteeError` unless those that fill up have owners of their own, the last ones.
        """
        if filling == 0:
            return self.count
        own, nobody = self.index[: self.rows - filling], self.index[self.rows - filling :]
        if not 0 < filling < self.rows or int(own.max()) >= int(nobody.min()):
            raise GuaranteeError("rows that fill a pass up come last, under larger owners that nobody has")
        return int(own.max()) + 1

    def merge(self, rows: Tensor) -> Tensor:
        """`[R, T, D]` to `[U, K*T, D]` where the rows fold (no copy, no cost), else unchanged."""
        return rows.reshape(self.count, -1, rows.shape[-1]) if self.fold > 1 else rows

    def sum_rows(self, values: Tensor) -> Tensor:
        """`[R, ...]` to `[U, ...]`, the sum over each owner's rows; what is `[U, ...]` already stays as it
        is."""
        if len(values) == self.count:
            return values
        if self.fold:
            return values.reshape(self.count, self.fold, *values.shape[1:]).sum(1)
        total = values.new_zeros(self.count, *values.shape[1:])
        for alike in self.alike:
            total[alike.positions] = alike.owners.sum_rows(values[alike.rows])
        return total

    @cached_property
    def alike(self) -> list[Alike]:
        """The owners in groups of equally many rows, each of which folds; their rows stay in order."""
        counts = torch.bincount(self.index, minlength=self.count)
        order, firsts = torch.argsort(self.index, stable=True), counts.cumsum(0) - counts
        return [
            self._alike(fold, torch.nonzero(counts == fold)[:, 0], order, firsts)
            for fold in sorted(set(counts.tolist()))
        ]

    def _alike(self, fold: int, positions: Tensor, order: Tensor, firsts: Tensor) -> Alike:
        each = torch.arange(fold, device=order.device)
        index = torch.arange(len(positions), device=order.device).repeat_interleave(fold)
        ids = [self.ids[position] for position in positions.tolist()]
        rows = order[(firsts[positions][:, None] + each).flatten()]
        return Alike(positions=positions, rows=rows, owners=RowOwners(ids=ids, index=index, fold=fold))

    def all_rows(self, flags: Tensor) -> Tensor:
        """`[R]` booleans to `[U]`: whether every row of the owner is flagged."""
        return self.sum_rows((~flags).to(torch.int64)) == 0


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Some owners of a pass, all with as many rows: their positions in it, their rows, and these as a pass
    of their own."""

    positions: Tensor  # [V] int64, rising
    rows: Tensor  # [V * fold] int64
    owners: RowOwners
