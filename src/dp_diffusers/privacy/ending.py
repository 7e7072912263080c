"""Runs that someone closes by hand: found by the beginning of their name, settled, or abandoned.

Guarantee: a run that another process works on is left alone where that can be told, and nothing that was
charged is ever given back. Imports the standard library and the run folder's lock. Source: guarantee 6 of
the design; `spending.cost_when_stopped` says what a run counts that was stopped by choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dp_diffusers.errors import BudgetExhausted, LedgerError, RunFolderError, nearest
from dp_diffusers.privacy.runs import Run
from dp_diffusers.run_folder import RunFolder

if TYPE_CHECKING:
    from dp_diffusers.privacy.ledger import Ledger


def find_run(ledger: Ledger, name: str) -> Run:
    """The run called `name`, or the only one whose name begins so.

    Raises `LedgerError` where there is none, or more than one.
    """
    runs = {run.run_id: run for run in ledger.runs()}
    found = [run_id for run_id in runs if name and run_id.startswith(name)]
    if name in runs or len(found) == 1:
        return runs[name if name in runs else found[0]]
    if found:
        raise LedgerError(
            f"{len(found)} runs of {ledger.path} begin with {name!r}", hint="give more of the name"
        )
    close = nearest(name, [*runs, *(run_id[: len(name)] for run_id in runs)])
    hint = f"did you mean {close!r}?" if close else f"`dp-diffusers ledger show {ledger.path}` lists them"
    raise LedgerError(f"no run {name!r} in the ledger {ledger.path}", hint=hint)


def settle(ledger: Ledger, name: str, *, unseen: bool = False) -> Run:
    """Closes an open run at what it charged; one that is settled stays as it is.

    unseen: whoever decides to stop has seen nothing of what it released. Raises `LedgerError` for a run that
    charged nothing, was cancelled, or is being worked on.
    """
    run = find_run(ledger, name)
    if run.status == "settled":
        return run
    if not run.charged and run.status == "open":
        raise LedgerError(
            f"run {run.run_id} has charged nothing that could be settled",
            hint=f"`dp-diffusers ledger abandon {ledger.path} {run.run_id}` gives its whole reservation back",
        )
    return _close(ledger, run, abandon=False, unseen=unseen)


def abandon(ledger: Ledger, name: str, *, unseen: bool = False) -> Run:
    """Gives an open run up for good: cancelled if it charged nothing, else settled and never finished.

    Raises `LedgerError` for a run that is closed already, or is being worked on.
    """
    run = find_run(ledger, name)
    if run.abandoned:
        return run
    if run.status == "settled":
        raise LedgerError(
            f"run {run.run_id} is settled already", hint="what it charged stays charged; nothing is reserved"
        )
    return _close(ledger, run, abandon=True, unseen=unseen)


def refuse_given_up(ledger: Ledger, run_id: str, *, complete: bool) -> None:
    """Raises `BudgetExhausted` unless the run may go on, or is `complete` and not abandoned."""
    run = {run.run_id: run for run in ledger.runs()}.get(run_id)
    if run is None or not run.given_up or (complete and not run.abandoned):
        return
    how = "abandoned" if run.abandoned else "settled"
    raise BudgetExhausted(
        f"run {run_id} was {how} in the ledger {ledger.path} after {run.steps_charged} of {run.record.steps} "
        "steps: it charges no more",
        hint="what it made so far is untouched; a new training needs another --out and its own reservation",
    )


def _close(ledger: Ledger, run: Run, *, abandon: bool, unseen: bool) -> Run:
    with _nobody_else(run):
        ledger.resume(run.run_id).give_up(abandon=abandon, unseen=unseen)
    return ledger.run(run.run_id)


@contextlib.contextmanager
def _nobody_else(run: Run) -> Iterator[None]:
    """Holds the lock of the folder that the run was last worked on in, if it is still there."""
    folder = RunFolder(Path(run.folder)) if run.folder is not None else None
    if folder is None or not (folder.private / "lock").exists():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder.lock())
        except RunFolderError as error:
            raise LedgerError(
                f"another process is at work on run {run.run_id} in {run.folder}",
                hint="wait for it, or stop it first",
            ) from error
        except OSError:
            pass  # a folder that cannot be opened here: the lanes alone keep two processes apart
        yield
