"""Saving and loading of training state, whole or not at all.

Guarantee: a checkpoint file is either the previous one or the new one, never half of either, whatever instant
the process dies at. May import torch. A checkpoint holds weights, optimiser, averages and counters: never a
key, never an un-noised sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dp_diffusers.errors import RunFolderError
from dp_diffusers.whole_files import replacing

SMALL_STATE = 64 * 2**20  # bytes: below this a checkpoint is written every step
SECONDS_BETWEEN = 60.0


def save_atomic(state: dict[str, Any], path: Path) -> None:
    """Writes `state` to `path` through a synced temporary file.

    Raises `OSError` (a full disk) with `path` untouched.
    """
    try:
        with replacing(path) as stream:
            torch.save(state, stream)
    except BaseException as error:
        if isinstance(error.__context__, OSError):  # torch hides it behind an error of its own
            raise error.__context__ from None
        raise


def load(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or None when there is none. Raises `RunFolderError` for a damaged file."""
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:
        raise RunFolderError(
            f"checkpoint {path} is damaged",
            hint="restore it from a copy; without it the run begins again, and what it paid for is lost",
        ) from error


def require_plan(state: Mapping[str, Any], fingerprint: str, folder: Path) -> None:
    """Raises `RunFolderError` if `state`, of the run in `folder`, names another plan than `fingerprint`."""
    if state.get("plan", fingerprint) != fingerprint:
        raise RunFolderError(
            f"the checkpoint in {folder} is of a training by another plan",
            hint="give another --out, or run the recipe that it belongs to",
        )


@dataclass(kw_only=True)
class Saver:
    """Decides when a state is worth writing: every step while it is small, else once in `seconds`."""

    path: Path
    state: Callable[[], dict[str, Any]]
    seconds: float = SECONDS_BETWEEN
    every_step_below: int = SMALL_STATE
    _last: float = field(default_factory=time.monotonic, init=False)

    def maybe_save(self, *, force: bool = False) -> None:
        """Writes the state if it is due."""
        due = time.monotonic() - self._last >= self.seconds
        small = self.path.exists() and self.path.stat().st_size < self.every_step_below
        if force or due or small or (self.every_step_below and not self.path.exists()):
            save_atomic(self.state(), self.path)
            self._last = time.monotonic()
