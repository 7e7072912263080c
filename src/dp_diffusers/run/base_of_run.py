"""The base model that a run folder began with, against the one that is there now.

Guarantee: a run goes on with the very weights that its first steps were trained on, or not at all; a folder
that does not say which they were, goes on. May import the run's files.
"""

from __future__ import annotations

from typing import Any, Final

from dp_diffusers.errors import RunFolderError
from dp_diffusers.run import place_of_run
from dp_diffusers.run.folder import RUN, RunFolder
from dp_diffusers.run.jobs import Job

BASE: Final = "base_sha256"  # in `run.json`, see `diffusion.base.fingerprint`


def noted(job: Job) -> dict[str, Any]:
    """What `run.json` says of the base."""
    return {BASE: job.base.sha256}


def require_base_of_run(job: Job, folder: RunFolder) -> None:
    """Raises `RunFolderError` where the run began on another base than the job's.

    A run without privacy has no account that notes its base, and its place: they are noted here.
    """
    known = folder.read(RUN) or {}
    if known.get(BASE) not in (None, job.base.sha256):
        raise RunFolderError(
            f"{folder.root} began on another base model than {job.base.source or job.base.identity} is now",
            hint="restore the base as it was (and the diffusers that opened it), or give another --out",
        )
    if job.plan.not_private:
        folder.write(RUN, {**known, **noted(job), **place_of_run.noted(job.place, folder)})
