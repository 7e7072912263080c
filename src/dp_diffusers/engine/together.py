"""What a gradient box needs of the other processes of a training, and what it needs where there are none.

Guarantees: sums without noise leave a process in one direction, to the first, and only from inside a box;
what comes back is released. May import torch's types only. The processes are joined elsewhere; the engine
knows them by this interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Together(Protocol):
    """The processes of one training, as the box of one of them sees them. All of them make the same calls."""

    @property
    def first(self) -> bool:
        """Whether this process adds the noise."""

    @property
    def several(self) -> bool:
        """Whether there are others."""

    def refuse_shared(self, owners: Sequence[int]) -> None:
        """Raises `GuaranteeError` in every process if an owner is on two of them."""

    def sum_to_first(self, tensors: Sequence[Tensor]) -> None:
        """Adds up what all hold, in place, in the first process; in the others zeros are left."""

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites, in place, with what the first process holds."""


class OneProcess:
    """There are no others: nothing is to be done."""

    first = True
    several = False

    def refuse_shared(self, owners: Sequence[int]) -> None:
        """Nothing: a box alone refuses an owner that returns."""

    def sum_to_first(self, tensors: Sequence[Tensor]) -> None:
        """Nothing."""

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Nothing."""


ONE_PROCESS = OneProcess()
