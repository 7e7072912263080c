"""How one piece of work ended in all processes, and what each of them raises for it.

Guarantee: every process comes to the same verdict from the same codes; one that failed says why, the lowest
of them, and the others end as it does. May import the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dp_diffusers.errors import BudgetExhausted, DPDiffusersError, EndedElsewhere, ExitCode

WELL: Final = 0
_GONE: Final = 1 + ExitCode.INTERRUPTED
EXHAUSTED: Final = -1  # not an error: the training ends and is released


def code_of(error: BaseException | None) -> int:
    """The code of how a process fared: 0, -1 for an exhausted budget, or 1 + its exit code."""
    if error is None:
        return WELL
    if isinstance(error, BudgetExhausted):
        return EXHAUSTED
    if isinstance(error, KeyboardInterrupt):
        return 1 + ExitCode.INTERRUPTED
    return 1 + (error.exit_code if isinstance(error, DPDiffusersError) else ExitCode.BUG)


@dataclass(frozen=True)
class Verdict:
    """What decided, and whose it was: the lowest error, else an exhausted budget, else nothing.

    An interrupt decides where no process has another error.
    """

    code: int
    rank: int

    @classmethod
    def of(cls, codes: Sequence[int]) -> Verdict:
        """codes: of every process, or of the first alone."""
        errors = [rank for rank, code in enumerate(codes) if code > WELL]
        errors.sort(key=lambda rank: codes[rank] == _GONE)  # who waited for another has no reason of its own
        exhausted = [rank for rank, code in enumerate(codes) if code == EXHAUSTED]
        for rank in [*errors, *exhausted]:
            return cls(codes[rank], rank)
        return cls(WELL, 0)

    def apply(self, rank: int, error: BaseException | None) -> None:
        """Raises in process `rank`, whose own `error` it is or not, what it has to raise."""
        if self.code == WELL:
            return
        if self.rank == rank and error is not None:
            raise error
        if self.code == EXHAUSTED:
            raise BudgetExhausted("the budget is spent, as the first process found") from error
        raise EndedElsewhere(ExitCode(self.code - 1)) from error
