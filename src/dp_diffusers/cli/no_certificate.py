"""What helps where `certificate verify` finds no certificate: the next step, by what the folder is.

Guarantees that nothing is written, and that no hint sends anyone to a command that refuses. May import the
run folder, and the ledger inside functions.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from dp_diffusers.errors import DPDiffusersError, RunFolderError
from dp_diffusers.privacy.files import CERTIFICATE_NAME
from dp_diffusers.privacy.runs import Run
from dp_diffusers.run.folder import RUN, RunFolder

MERGED: Final = "merged_from.json"  # `diffusion.merged_from`, which loads more than a hint is worth
_AGAIN: Final = "`dp-diffusers train` with its recipe and this --out begins, or goes on with it"


def hint_without(folder: Path) -> str:
    """For a folder that is no run and holds no certificate."""
    around = folder.absolute().parents[:2]  # `images`, and what lies in there
    release = next((place for place in around if (place / CERTIFICATE_NAME).is_file()), None)
    if release is not None:
        return f"{folder} lies in a release: verify {release}"
    if (folder / MERGED).is_file():
        return "a merged model has no certificate: verify the release that it was made from"
    return "`dp-diffusers train` writes it; was the folder copied whole?"


def unfinished(folder: RunFolder) -> RunFolderError:
    """The error for a training that has not finished, or that someone closed in its ledger."""
    root, path = folder.root, _ledger_of(folder)
    run = None if path is None else _run_in(path, folder)
    if run is None or not run.given_up:
        return RunFolderError(
            f"the training in {root} has not finished, or never began: there is no certificate",
            hint=_AGAIN if path is not None else f"{_AGAIN}, unless it was closed in its ledger",
        )
    how = "abandoned" if run.abandoned else "settled"
    new = "a new training needs another --out and its own reservation"
    return RunFolderError(
        f"the training in {root} was {how} in the ledger {path} after {run.how_far}: there is no certificate",
        hint=new if run.abandoned else f"{new}; `train` here ends one whose last step was done, and no other",
    )


def _ledger_of(folder: RunFolder) -> Path | None:
    """The ledger that the run's recipe names; None where it names none, as that of a call in Python."""
    with contextlib.suppress(RunFolderError, OSError):
        named = (folder.settings().get("budget") or {}).get("ledger")
        return Path(named) if isinstance(named, str) and Path(named).is_file() else None
    return None


def _run_in(path: Path, folder: RunFolder) -> Run | None:
    """Where the folder's run stands in the ledger; None where that cannot be told now."""
    from dp_diffusers.privacy.ledger import Ledger

    with contextlib.suppress(DPDiffusersError), Ledger.open(path, create=False, busy_seconds=0.5) as ledger:
        run_id = (folder.read(RUN) or {}).get("run_id")
        return next((run for run in ledger.runs() if run.run_id == run_id), None)
    return None
