"""The reservation of a run: opened again or made, and given back where nothing was spent.

Guarantees:
- the name of a reservation is on disk before it is in the ledger;
- a ledger that lacks what this run knows of it, or holds another plan, is refused;
- a failure before the first charge leaves nothing spent and the folder free.
May import the ledger and the run's files.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any, Final

from dp_diffusers import checkpoint
from dp_diffusers.errors import RunFolderError
from dp_diffusers.run import base_of_run, place_of_run
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.jobs import Job
from dp_diffusers.run.ledger_place import require_first
from dp_diffusers.run.run_secrets import forget_traces
from dp_diffusers.whole_files import sync_folder

OWNERSHIP: Final = "ownership.json"


def account_of(job: Job, folder: RunFolder) -> Any:
    """The run's reservation: the one it has, or a new one."""
    from dp_diffusers.privacy.ledger import Ledger

    known = folder.read(RUN)
    if not known and folder.checkpoint.exists():
        raise RunFolderError(
            f"{folder.root} has the checkpoint of a run, and no account of what it paid",
            hint=f"restore {folder.private / RUN}, or give another --out",
        )
    head = known.get("head") if known else None
    # a run that knows a head has a ledger: an empty one in its place would forget what was spent
    if head is None and not Path(job.ledger_file).exists():
        _begin(job)
    ledger = Ledger.open(job.ledger_file, expect_head=head, create=head is None)
    saved = checkpoint.load(folder.checkpoint) if known else None
    if saved is not None and saved["head"] is not None:
        ledger.require_head(saved["head"])
    run_id = known["run_id"] if known else uuid.uuid4().hex
    named = {"run_id": run_id, "plan": job.plan.to_json(), **base_of_run.noted(job)}
    named |= place_of_run.noted(job.place, folder)
    if not known:
        folder.write(RUN, named)
    if known:
        ledger.refuse_given_up(run_id, complete=bool(saved and saved["complete"]))
    ledger.require_delta(job.plan)  # of a run that goes on as well: its certificate would not be valid
    account = ledger.resume(run_id) if ledger.has_run(run_id) else ledger.reserve(job.plan, run_id=run_id)
    if account.plan_fingerprint != job.plan.fingerprint:
        raise RunFolderError(
            f"the ledger {ledger.path} holds another plan for this run than {folder.root}",
            hint="give another --out; a plan cannot change while its run goes on",
        )
    try:
        _say_whose_cap(job, ledger)
        folder.write(RUN, {**named, "head": ledger.head})
    except BaseException:
        if not known:
            account.cancel()
        raise
    return account


def _begin(job: Job) -> None:
    """Says that a new ledger begins, and makes the folder that a call in Python names.

    That of a recipe lies beside the images unless it says otherwise: a folder that is not there is a mistake.
    Raises `LedgerError` where these images may have one already.
    """
    path = Path(job.ledger_file)
    require_first(job.ledger_file, (job.settings.get("data") or {}).get("path"))
    job.progress(message=f"a new ledger begins: {path}; its first run fixes unit, adjacency and cap")
    others = sorted(other.name for other in path.parent.glob("*.ledger") if other.is_file())
    if others:
        more = "" if len(others) == 1 else f" and {len(others) - 1} more"
        job.progress(
            message=f"beside it lies {others[0]}{more}: if that is of the same images under another name, "
            "stop, and name it in budget.ledger"
        )
    if "budget" not in job.settings and path.parent.parent.is_dir() and not path.parent.exists():
        path.parent.mkdir(mode=0o700)
        sync_folder(path.parent.parent)


def _say_whose_cap(job: Job, ledger: Any) -> None:
    """A run that asks for no cap of its own comes under the ledger's, which may be another number.

    Its own budget holds beside it: the limit of a run is the smaller of both.
    """
    cap, budget = ledger.terms.cap, job.plan.budget
    if budget is None or cap == budget.cap:
        return
    limit = "no cap" if cap is None else f"a cap of epsilon {cap.epsilon:g} at delta {cap.delta:g}"
    also = f"this run also keeps its own budget of epsilon {budget.epsilon:g} at delta {budget.delta:g}"
    together = "nothing limits all runs together" if cap is None else "that limits all runs together"
    job.progress(message=f"the ledger has {limit}, which its first run fixed: {together}; {also}")


def forget_unspent(account: Any, folder: RunFolder, fresh: bool) -> None:
    """A failure before the first charge gives the reservation back; the folder is free for another recipe.

    fresh: whether the run began with this start.
    """
    if account is not None:
        if account.charged:
            return
        account.cancel()
    elif not fresh:
        return  # an earlier start may hold a reservation that this one could not open
    for store in (folder.cache, folder.captions):  # made of private images, and another recipe's would differ
        shutil.rmtree(store, ignore_errors=True)
    forget_traces(folder)
    for path in (folder.private / RUN, folder.private / OWNERSHIP, folder.recipe):
        path.unlink(missing_ok=True)
