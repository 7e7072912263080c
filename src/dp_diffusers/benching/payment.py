"""A plan and a ledger for a benchmark, real in all but the data.

Guarantees that a step here costs what it costs in a training: the ledger is a file, synchronous. May import
the plan and privacy, never the engine.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger

STEPS: Final = 1_100  # more than any benchmark takes
UNITS_PER_STEP: Final = 0.1  # of the population: a noise multiplier that is calibrated in a second


class Payment:
    """A reservation for `STEPS` steps of `units` units; the ledger is deleted with the object."""

    def __init__(self, units: int, clip_norm: float) -> None:
        self.plan = plan_for(units, clip_norm)
        self.keys = self.plan.fresh_keys()
        folder = tempfile.mkdtemp(prefix="dp-diffusers-bench-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._ledger = Ledger.open(Path(folder) / "bench.ledger")
        self._account = self._ledger.reserve(self.plan)
        self._account.open_lane(self.keys)

    def charge(self, step: int) -> Any:
        """Pays for a step, as the training loop does. Returns: the receipt."""
        self._account.require_affordable()
        return self._account.charge(step)


@lru_cache(maxsize=8)
def plan_for(units: int, clip_norm: float) -> Plan:
    """The plan that a benchmark pays under; made once for each size."""
    population = round(units / UNITS_PER_STEP)
    mechanism = DPSGD(steps=STEPS, expected_units=units, population=population, clip_norm=clip_norm)
    return Plan.calibrate(Budget(epsilon=8.0, delta=1e-4), mechanism)
