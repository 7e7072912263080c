"""The plan that a run folder began with, against the one that is asked for now.

Guarantee: a run goes on with the very plan that its ledger reserved, or not at all. May import the plan, and
nothing heavy. Source: the contract of `train` in the design.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

from dp_diffusers.errors import RunFolderError
from dp_diffusers.plan import Plan
from dp_diffusers.processes import Team
from dp_diffusers.run.folder import RUN, RunFolder

SAME_NOISE: Final = 1e-6  # relative: how far calibrations of one plan on two machines may lie apart


def plan_of_run(plan: Plan, folder: RunFolder) -> Plan:
    """The plan that the run began with: made again elsewhere, its noise may differ in the last bits.

    Raises `RunFolderError` where `plan` is another one.
    """
    stored = (folder.read(RUN) or {}).get("plan")
    if stored is None:
        return plan
    first = Plan.from_json(stored)
    close = math.isclose(first.noise_multiplier, plan.noise_multiplier, rel_tol=SAME_NOISE)
    if not close or declared_numbers(first) != declared_numbers(plan):
        raise RunFolderError(f"{folder.root} belongs to another plan", hint="give another --out")
    return first


def declared_numbers(plan: Plan) -> dict[str, Any]:
    """What was asked for: the plan's public numbers without the noise that was found for them."""
    numbers = json.loads(plan.to_json())
    mechanism = {key: value for key, value in numbers["mechanism"].items() if key != "noise_multiplier"}
    queries = {"queries": numbers["queries"]} if numbers["queries"] else {}
    return {"budget": numbers["budget"], "mechanism": mechanism, **queries}


def plan_of_first(team: Team, make: Callable[[], Plan], known: Plan | None = None) -> Plan:
    """The plan that the first process makes, in all of them; `known`: what this process takes it to be.

    Made by each, its noise may differ in the last bits.
    """
    plan = team.first_does(make)
    if not team.several:
        assert plan is not None
        return plan
    text: str = team.first_tells(lambda: plan.to_json() if plan is not None else None)
    if plan is None:
        plan = known if known is not None and known.to_json() == text else Plan.from_json(text)
    return plan
