"""Known defects of crash safety, planted in a process that is then killed; and clocks that are wrong."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def checkpoint_in_place() -> None:
    """The checkpoint is written over the one before it."""
    import torch

    from dp_diffusers import checkpoint

    def save(state: dict[str, Any], path: Path) -> None:
        with path.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())

    checkpoint.save_atomic = save


def same_lane() -> None:
    """A resumed process has the keys of the one before it, and the ledger does not look."""
    from dp_diffusers.engine.randomness import RunKeys
    from dp_diffusers.plan import Plan
    from dp_diffusers.privacy.reservation import Reservation

    def keys() -> RunKeys:
        return RunKeys(hashlib.sha256(b"run").digest(), hashlib.md5(b"run").digest(), not_private=False)

    Plan.fresh_keys = staticmethod(keys)  # type: ignore[method-assign]
    Reservation._refuse_known = lambda self, lane: None  # type: ignore[method-assign]


def charge_one_step_late() -> None:
    """A step is paid for when the next one begins, or the run ends."""
    from dp_diffusers.privacy.receipt import Receipt
    from dp_diffusers.privacy.reservation import Reservation

    charge, owed = Reservation.charge, {}
    settle = Reservation.settle

    def late(self: Any, step: int) -> Receipt:
        if self in owed:
            charge(self, owed.pop(self))
        owed[self] = step
        return Receipt(step=step, lane=self._lane, plan_fingerprint=self.plan_fingerprint)

    def pay(self: Any) -> int:
        if self in owed:
            charge(self, owed.pop(self))
        return settle(self)

    Reservation.charge = late  # type: ignore[method-assign]
    Reservation.settle = pay  # type: ignore[method-assign]


def charge_without_looking_back() -> None:
    """The newest entry of a run is taken as it is, whoever wrote it."""
    from dp_diffusers.privacy.reservation import Reservation

    Reservation._require_newest = lambda self, last: self._lane  # type: ignore[method-assign]


def clock_of_1970() -> None:
    """No defect of ours: a machine whose clock was set back."""
    _clock(lambda now: 0.0)


def clock_that_jumps() -> None:
    """No defect of ours: a clock that moves by years, forth and back."""
    chance = random.Random(0)
    _clock(lambda now: now + chance.uniform(-1e9, 1e9))


def _clock(told: Callable[[float], float]) -> None:
    from datetime import datetime

    from dp_diffusers.privacy import ledger_file

    real = time.time

    class Shifted(datetime):
        """Today, by that clock."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(told(real()), tz)

    time.time = lambda: told(real())
    ledger_file.datetime = Shifted


DEFECTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        checkpoint_in_place,
        same_lane,
        charge_one_step_late,
        charge_without_looking_back,
        clock_of_1970,
        clock_that_jumps,
    )
}
