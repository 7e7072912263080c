"""Every error that a user can meet, and the exit code that each one carries.

    DPDiffusersError            exit 1   a bug of ours, unless a subclass says otherwise
    ├── InputError              exit 2   something the caller gave is wrong, or failed under way
    │   ├── RecipeError                  a recipe file, all of its problems at once
    │   ├── DataError                    images, labels, units
    │   ├── ModelError                   a base model, a layer, an adapter
    │   ├── ParameterError               a number outside its range
    │   ├── LedgerError                  a ledger that is locked, damaged or not the expected one
    │   ├── RunFolderError               a run folder that belongs to another recipe, a full disk
    │   └── DeviceMemoryError            one row at a time does not fit; that step was not charged
    ├── BudgetError             exit 3   the budget or the cap forbids it
    │   ├── BudgetExhausted              a run reached its limit; what is left of it is given up
    │   └── RunClosed                    a run that was settled or abandoned: it charges no more
    ├── VerificationError       exit 4   a certificate, a release or an audit that does not hold
    ├── GuaranteeError          exit 1   a call that would break the guarantee (always a bug)
    ├── Interrupted             exit 130 stopped by the user or by a process that is gone, resumable
    └── EndedElsewhere                   another process of the training ended: its exit code, and its line

This module imports nothing but the standard library, so that the command line can start with it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of the command line."""

    DONE = 0
    BUG = 1
    BAD_INPUT = 2
    BUDGET_REFUSED = 3
    VERIFICATION_NEGATIVE = 4
    INTERRUPTED = 130


class DPDiffusersError(Exception):
    """Base of all errors of this package: one line that says what, and a hint that says what to do."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(DPDiffusersError):
    """Something the caller gave cannot be used, and nothing was spent; or it failed under way.

    What was charged before a disk, the memory or a run folder failed stays charged.
    """

    exit_code = ExitCode.BAD_INPUT


class RecipeError(InputError):
    """A recipe that does not validate. `problems` holds `(message, hint)` for each problem found."""

    def __init__(self, problems: list[tuple[str, str | None]]) -> None:
        super().__init__("\n".join(message for message, _ in problems))
        self.problems = problems


class DataError(InputError):
    """Images, labels or unit ids that cannot be used."""


class ModelError(InputError):
    """A base model, a layer or an adapter that cannot be used."""


class ParameterError(InputError):
    """A number or a name outside what is allowed."""


class LedgerError(InputError):
    """A ledger that is locked, damaged, altered, or not the one that this run knows."""


class RunFolderError(InputError):
    """A run folder that belongs to another recipe, or that cannot be written."""


class DeviceMemoryError(InputError):
    """The model does not fit in the memory of the device; steps that were done before stay charged."""


class BudgetError(DPDiffusersError):
    """The budget of the run or the cap of the data set does not allow the request."""

    exit_code = ExitCode.BUDGET_REFUSED


class BudgetExhausted(BudgetError):
    """The run has reached its limit: no further step may be charged."""


class RunClosed(BudgetError):
    """Someone closed the run in the ledger, whatever is left of its budget: it charges no more."""


class VerificationError(DPDiffusersError):
    """A certificate, a release or an audit that does not hold."""

    exit_code = ExitCode.VERIFICATION_NEGATIVE


class GuaranteeError(DPDiffusersError):
    """A call that would break the privacy guarantee: noise without a receipt, an owner that returns."""


class Interrupted(DPDiffusersError):
    """Stopped by the user; running the same command again resumes."""

    exit_code = ExitCode.INTERRUPTED


class EndedElsewhere(DPDiffusersError):
    """Another process of the same training ended with this exit code, and says why; this one says nothing."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(f"another process of this training ended with exit code {int(exit_code)}")
        self.exit_code = exit_code


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, if any is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ParameterError:
    """The error for a name that no table knows, with the nearest known one as its hint."""
    choices = sorted(known)
    close = nearest(name, choices)
    hint = f"did you mean {close!r}?" if close else f"known: {', '.join(choices)}"
    return ParameterError(f"unknown {kind} {name!r}", hint=hint)


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 row`, `2 rows`; `several` where an s does not do it."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def positive(*, hint: str | None = None, **values: float) -> None:
    """Raises `ParameterError` unless every value is finite and > 0. Call it as `positive(steps=steps)`."""
    for name, value in values.items():
        if not math.isfinite(value) or value <= 0:
            raise ParameterError(f"expected {name} > 0, got {value}", hint=hint)


def of_kind(*kinds: type, hint: str | None = None, **values: object) -> None:
    """Raises `ParameterError` unless every value is of one of the kinds: `of_kind(Plan, plan=plan)`."""
    for name, value in values.items():
        if not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ParameterError(f"expected {name} to be {expected}, got {type(value).__name__}", hint=hint)


def whole(*, hint: str | None = None, **values: object) -> None:
    """Raises `ParameterError` unless every value is an integer; `True` and 3.0 are none."""
    for name, value in values.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ParameterError(f"expected {name} to be a whole number, got {value!r}", hint=hint)


def within(low: float, high: float, *, hint: str | None = None, **values: float) -> None:
    """Raises `ParameterError` unless every value lies in [low, high] (NaN never does)."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ParameterError(f"expected {name} in [{low:g}, {high:g}], got {value}", hint=hint)
