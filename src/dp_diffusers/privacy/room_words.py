"""What someone may still do once a cap has refused a run: in words, from the runs that hold it.

Guarantees that nothing is promised which the rule for stopped runs does not give, and that a run which has
not ended is named with its folder. Imports the standard library and the costs. Source:
`spending.cost_when_stopped`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from dp_diffusers.privacy.budget import EPSILON_RANGE
from dp_diffusers.privacy.runs import Run
from dp_diffusers.privacy.spending import Cost, Terms, cost_when_stopped

NAME = 12  # characters of a run's name, where no other begins so


def what_is_left(epsilon: float, runs: Sequence[Run], terms: Terms, ledger: str) -> str:
    """The hint for a refused run; epsilon: what the cap has beyond `runs`, all of those in `ledger`."""
    held = held_by_open_runs(runs, terms, ledger)
    if epsilon >= EPSILON_RANGE[0]:
        others = any(run.status != "cancelled" for run in runs)
        rule = ", less as runs planned after looking at earlier ones add up by a safer rule" if others else ""
        left = f"at most epsilon {math.floor(epsilon * 1000) / 1000:g} is left{rule}: lower budget.epsilon"
        return f"{left}; {held}" if held else left
    said = held or "nothing usable is left of the cap, and no later run can change it"
    if any(run.status == "settled" for run in runs):
        said += "; the releases that are there can go on giving images at no cost"
    return said


def held_by_open_runs(runs: Sequence[Run], terms: Terms, ledger: str) -> str:
    """The newest of `runs` that is open, and what to do with it; nothing where all have ended."""
    still = [run for run in runs if run.status == "open"]
    if not still:
        return ""
    newest, show = still[-1], f"`dp-diffusers ledger show {shlex.quote(ledger)}`"
    more = f"; {show} lists all {len(still)} that are open" if len(still) > 1 else ""
    return f"{_held(newest, _short(newest, runs), terms, shlex.quote(ledger))}{more}"


def _held(run: Run, name: str, terms: Terms, ledger: str) -> str:
    if run.folder is None:
        where, how = "and names no folder", "go on with it where it was begun"
    elif run.record.name == "count":
        where, how = f"in {run.folder}", "ask the same question there"
    else:
        where, how = f"in {run.folder}", "go on with it there (--out that folder, or where it was moved to)"
    return f"run {name} ({run.how_far}) is open {where}: {how}{_ways_to_close(run, name, terms, ledger)}"


def _ways_to_close(run: Run, name: str, terms: Terms, ledger: str) -> str:
    """The verb that closes it, and what that gives back."""
    if not run.charged:
        return f", or give all of it back with `dp-diffusers ledger abandon {ledger} {name}`"
    settle = f"`dp-diffusers ledger settle {ledger} {name}"
    if _gives_back(run, terms):
        return f", or close it with {settle}`, which gives back what it has not charged"
    return f"; closed by choice it counts all of it, but not if nobody saw what it made: {settle} --unseen`"


def _gives_back(run: Run, terms: Terms) -> bool:
    """Whether a run that is stopped by choice counts less than it reserved."""
    reserved = run.reserved_cost
    stopped = cost_when_stopped(Cost.nothing(reserved.delta), reserved, terms)
    return reserved.renyi is not None and stopped != reserved


def _short(run: Run, runs: Sequence[Run]) -> str:
    alike = [other for other in runs if other.run_id.startswith(run.run_id[:NAME])]
    return run.run_id[:NAME] if len(alike) == 1 else run.run_id
