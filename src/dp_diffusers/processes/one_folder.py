"""Whether all processes of a training see the same run folder, and hold the same private images.

Guarantee: a process on a machine that does not share the folder, or reads other images there, is refused
before anything is charged. May import numpy, the data and the run's files.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import RunFolderError
from dp_diffusers.processes.team import Team
from dp_diffusers.run.folder import RunFolder

PREFIX: Final = "processes-"
SHOWS_AFTER: Final = 60.0  # seconds: a network file system may keep what it knew of a folder for so long
_LOOKS: Final = 0.1


def require_one_folder(team: Team, folder: RunFolder) -> None:
    """Raises `RunFolderError` in a process that does not see what the first writes in the run's safe."""
    if not team.several:
        return
    name = team.first_tells(lambda: _note(folder))
    note = folder.private / name
    try:
        team.all_do(lambda: _until(note.exists, folder.root))
    finally:
        if team.first:
            note.unlink(missing_ok=True)


def require_same_images(team: Team, data: PrivateImages) -> None:
    """Raises `ParameterError` where a process holds other images, labels, texts or owners than the first."""
    if team.several:
        team.require_same("private images", digest_of(data))


def digest_of(data: PrivateImages) -> str:
    """sha256 of all that decides what a training takes from its images; private."""
    digest = hashlib.sha256(repr((data.images.shape, data.unit_count)).encode())
    for values in (data.images, data.owner, np.zeros(0) if data.labels is None else data.labels):
        digest.update(np.ascontiguousarray(values).data)
    digest.update(json.dumps([data.caption, data.captions]).encode())
    return digest.hexdigest()


def _note(folder: RunFolder) -> str:
    name = f"{PREFIX}{secrets.token_hex(8)}.tmp"  # swept away where this process dies
    (folder.private / name).touch(mode=0o600)
    return name


def _until(there: Callable[[], bool], root: Path) -> None:
    deadline = time.monotonic() + SHOWS_AFTER
    while not there():
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"this process does not see the {root} of the first process",
                hint="give --out on a file system that all machines share",
            )
        time.sleep(_LOOKS)
