"""Where the time of a step goes: this engine part by part, the plain step beside it, and operators by self
time.

Guarantees that the parts do not overlap, so that they and the rest add up to the step, and that nothing of
the engine is changed beyond the profile. May import torch. The parts are functions of the engine, named here
and wrapped while the profile runs; a name that is gone raises.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from itertools import product
from typing import Any, Final
from unittest import mock

import numpy as np
import torch

from dp_diffusers.benching.case import OURS, PLAIN, Case
from dp_diffusers.benching.engines import Engine, engine
from dp_diffusers.benching.work import work_of

Clock = Callable[[], float]
STEPS: Final = 5
POPULATION: Final = 60_000  # of the sampler
_TOP: Final = 12  # operators
_ENGINE = "dp_diffusers.engine"
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "draws": (
        "dp_diffusers.benching.engines.ours:Ours.draws",
        "dp_diffusers.benching.work:Work.draws",
    ),
    "forward": ("dp_diffusers.benching.work:Work.losses",),
    "backward": (f"{_ENGINE}.unit_grads:flow_back", "torch:Tensor.backward"),
    "unit gradients": (f"{_ENGINE}.unit_grads:HookedUnitGradients._add",),
    "norms": (f"{_ENGINE}.clipping:ClippedSum._norms",),
    "clip": (f"{_ENGINE}.clipping:ClippedSum._bounded_factors",),
    "sum": (f"{_ENGINE}.clipping:ClippedSum._contract", f"{_ENGINE}.postponed:Postponed.weighted_sum"),
    "noise": (f"{_ENGINE}.private_gradient:noisy",),
    "ledger": ("dp_diffusers.benching.payment:Payment.charge",),
    "optimizer": ("torch.optim:Adam.step",),
}
"""The functions whose time is a part's, as `module:name`; where one calls another, the time is the inner
one's."""


def profile_of(
    case: Case, *, device: torch.device, clock: Clock = time.perf_counter, tiny: bool = False
) -> dict[str, Any]:
    """Milliseconds of each part of a step (median), of this engine and of the plain step; operators; a text.

    `sampler` is timed on its own: it draws who takes part, of 60,000 units.
    """
    made = {name: engine(name, work_of(case, device=device, tiny=tiny)) for name in (OURS, PLAIN)}
    found: dict[str, Any] = {"case": case.facts(), "parts": _parts(made, device, clock)}
    found |= {"sampler": _sampler(case), "operators": _operators(made[OURS])}
    return found | {"text": _text(case, found)}


def _parts(measured: dict[str, Engine], device: torch.device, clock: Clock) -> dict[str, dict[str, float]]:
    """Milliseconds by engine and part, `rest` and `step` with them; the engines take turns, and the first
    step of each is dropped."""
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in measured}
    spent: dict[str, float] = defaultdict(float)
    with _timed_parts(spent, device, clock):
        for number, (name, made) in product(range(STEPS + 1), measured.items()):
            spent.clear()
            _settle(device)
            began = clock()
            made.step(number)
            _settle(device)
            whole = clock() - began
            steps[name].append({**spent, "rest": whole - sum(spent.values()), "step": whole})
    return {name: _medians(taken[1:]) for name, taken in steps.items()}


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    """In milliseconds."""
    return {part: 1000 * float(np.median([step.get(part, 0.0) for step in steps])) for part in steps[0]}


@contextmanager
def _timed_parts(spent: dict[str, float], device: torch.device, clock: Clock) -> Iterator[None]:
    with ExitStack() as stack:
        for part, targets in PARTS.items():
            for target in targets:
                owner, name = resolved(target)
                timed = _timed(getattr(owner, name), part, spent, device, clock)
                stack.enter_context(mock.patch.object(owner, name, timed))
        yield


def resolved(target: str) -> tuple[Any, str]:
    """What holds a function named as `module:Class.name`, and its name. Raises `AttributeError`."""
    module, _, path = target.partition(":")
    *holders, name = path.split(".")
    owner: Any = import_module(module)
    for holder in holders:
        owner = getattr(owner, holder)
    getattr(owner, name)
    return owner, name


def _timed(
    function: Callable[..., Any], part: str, spent: dict[str, float], device: torch.device, clock: Clock
) -> Callable[..., Any]:
    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        _settle(device)
        inside, began = sum(spent.values()), clock()
        try:
            return function(*args, **kwargs)
        finally:
            _settle(device)
            spent[part] += clock() - began - (sum(spent.values()) - inside)

    return timed


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sampler(case: Case) -> float:
    """Milliseconds in which Poisson sampling says who takes part."""
    from dp_diffusers.mechanisms.dpsgd import DPSGD
    from dp_diffusers.plan import Plan

    sampler = DPSGD(steps=STEPS + 1, expected_units=case.units, population=POPULATION).sampler(
        POPULATION, Plan.fresh_keys()
    )
    times = []
    for step in range(STEPS + 1):
        began = time.perf_counter()
        sampler.units(step)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times[1:]))


def _operators(measured: Engine) -> list[dict[str, Any]]:
    """Of one step, those with most self time, in milliseconds."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=kinds) as recorded:
        measured.step(STEPS + 1)
    averages = recorded.key_averages()
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    ordered = sorted(averages, key=lambda item: -getattr(item, key))[:_TOP]
    return [
        {"name": item.key, "calls": item.count, "milliseconds": getattr(item, key) / 1000} for item in ordered
    ]


def _text(case: Case, found: dict[str, Any]) -> str:
    ours, plain = (found["parts"][name] for name in (OURS, PLAIN))
    lines = [f"Where a step goes, ms: {case.name}", "", f"| part | {OURS} | {PLAIN} |", "|---|---|---|"]
    lines += [
        f"| {name} | {ours.get(name, 0.0):.1f} | {plain.get(name, 0.0):.1f} |"
        for name in (*PARTS, "rest", "step")
    ]
    operators = ", ".join(f"{item['name']} {item['milliseconds']:.0f}" for item in found["operators"])
    lines += ["", f"sampler, {POPULATION:,} units: {found['sampler']:.1f}", f"operators, self: {operators}"]
    return "\n".join(lines)
