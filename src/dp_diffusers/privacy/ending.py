"""Runs that someone closes by hand: found by the beginning of their name, settled, or abandoned.

Guarantee: a run that another process works on is left alone; where that cannot be told, it is closed only if
it is stated that none does. Nothing that was charged is ever given back. Imports the standard library and
the run folder's lock. Source: guarantee 6 of the design; `spending.cost_when_stopped` says what a run counts
that was stopped by choice.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dp_diffusers.errors import LedgerError, RunClosed, RunFolderError, nearest
from dp_diffusers.privacy.runs import Run
from dp_diffusers.run.folder import RunFolder

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
    listing = f"`dp-diffusers ledger show {shlex.quote(str(ledger.path))}` lists them"
    hint = f"did you mean {close!r}?" if close else listing
    raise LedgerError(f"no run {name!r} in the ledger {ledger.path}", hint=hint)


def settle(ledger: Ledger, name: str, *, unseen: bool = False, stopped_elsewhere: bool = False) -> Run:
    """Closes an open run for good; one that is settled stays as it is.

    unseen: whoever decides to stop has seen nothing of what it released. stopped_elsewhere: the process that
    worked on it has ended, though its run folder cannot be seen from here. Raises `LedgerError` for a run
    that charged nothing, was cancelled, is being worked on, or may be.
    """
    run = find_run(ledger, name)
    if run.status == "settled":
        run.refuse_late_statement(unseen=unseen)
        return run
    if not run.charged and run.status == "open":
        place = shlex.quote(str(ledger.path))
        raise LedgerError(
            f"run {run.run_id} has charged nothing that could be settled",
            hint=f"`dp-diffusers ledger abandon {place} {run.run_id}` gives its whole reservation back",
        )
    with _nobody_else(run, stopped_elsewhere=stopped_elsewhere):
        ledger.resume(run.run_id).give_up(unseen=unseen)
    return ledger.run(run.run_id)


def abandon(ledger: Ledger, name: str, *, unseen: bool = False, stopped_elsewhere: bool = False) -> Run:
    """Gives an open run up for good: cancelled if it charged nothing, else settled and never finished.

    unseen, stopped_elsewhere: see `settle`. Raises `LedgerError` for a run that is closed already, is being
    worked on, or may be.
    """
    run = find_run(ledger, name)
    if run.abandoned:
        return run
    if run.status == "settled":
        raise LedgerError(
            f"run {run.run_id} is settled already", hint="what it charged stays charged; nothing is reserved"
        )
    with _nobody_else(run, stopped_elsewhere=stopped_elsewhere):
        ledger.resume(run.run_id).give_up(abandon=True, unseen=unseen)
    return ledger.run(run.run_id)


def refuse_given_up(ledger: Ledger, run_id: str, *, complete: bool) -> None:
    """Raises `RunClosed` unless the run may go on, or is `complete` and not abandoned."""
    run = {run.run_id: run for run in ledger.runs()}.get(run_id)
    if run is None or not run.given_up or (complete and not run.abandoned):
        return
    how = "abandoned" if run.abandoned else "settled"
    raise RunClosed(
        f"run {run_id} was {how} in the ledger {ledger.path} after {run.how_far}: it charges no more",
        hint="what it made so far is untouched; a new training needs another --out and its own reservation",
    )


@contextlib.contextmanager
def _nobody_else(run: Run, *, stopped_elsewhere: bool) -> Iterator[None]:
    """Holds the lock of the folder that the run was last worked on in.

    Raises `LedgerError` where another process holds it; and where it cannot be had here, as in a container
    or on another machine, unless it is stated that whoever worked there has stopped.
    """
    with contextlib.ExitStack() as stack:
        held = _hold(run, stack)
        if run.opened and not held and not stopped_elsewhere:
            where = (
                "names no folder" if run.folder is None else f"works in {run.folder}, out of sight from here"
            )
            raise LedgerError(
                f"run {run.run_id} {where}: a process may be at work on it",
                hint="close it where it works; or state, once that process has ended, --stopped-elsewhere "
                "(in Python stopped_elsewhere=True)",
            )
        yield


def _hold(run: Run, stack: contextlib.ExitStack) -> bool:
    """Whether `stack` holds the lock of the run's folder now; False where the folder is not to be seen."""
    if run.folder is None:
        return False
    folder = RunFolder(Path(run.folder))
    try:
        if not (folder.private / "lock").exists():
            return False
        stack.enter_context(folder.lock())
    except RunFolderError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            return False
        raise LedgerError(
            f"another process is at work on run {run.run_id} in {run.folder}",
            hint="wait for it, or stop it first",
        ) from error
    except OSError:
        return False
    return True
