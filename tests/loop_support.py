"""What tests of the loop share: the account of what was really released, against the ledger."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dp_diffusers import checkpoint
from dp_diffusers.errors import DPDiffusersError
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.ledger import Ledger

Step = tuple[str, int]  # lane, step


def read_log(path: Path) -> tuple[list[Step], list[Step]]:
    """The releases that began and those that are done, in order."""
    found: dict[str, list[Step]] = {"begin": [], "done": []}
    for line in path.read_text().splitlines() if path.exists() else []:
        word, lane, step = line.split()
        found[word].append((lane, int(step)))
    return found["begin"], found["done"]


def charges(ledger: Path) -> list[Step]:
    """What the ledger says was paid for."""
    if not ledger.exists():
        return []
    with Ledger.open(ledger) as opened:
        entries = [entry.content for entry in opened.entries() if entry.kind == "charge"]
    return [(entry["lane"], entry["step"]) for entry in entries]


def problems_of_steps(paid: list[Step], began: list[Step], done: list[Step]) -> list[str]:
    """What is wrong with the releases of a run, given what was paid for: nothing, if the guarantee holds."""
    checks = {
        "a step was released that nobody paid for": set(began) <= set(paid),
        "fewer steps were paid for than released": len(paid) >= len(began) >= len(done),
        "two released steps share lane and step": len(set(began)) == len(began),
        "a step was paid for twice in a lane": len(set(paid)) == len(paid),
    }
    return [problem for problem, holds in checks.items() if not holds]


def problems(folder: Path) -> list[str]:
    """What is wrong with the run `folder/run`, its ledger `folder/tiny.ledger` and its log `folder/log`."""
    began, done = read_log(folder / "log")  # first: the ledger read after it can only hold more
    found = problems_of_steps(charges(folder / "tiny.ledger"), began, done)
    try:
        checkpoint.load(folder / "run" / "private" / "checkpoint.pt")
    except DPDiffusersError as error:
        found.append(f"the checkpoint does not load: {error}")
    return found + problems_of_ledger(folder / "tiny.ledger")


def problems_of_ledger(path: Path) -> list[str]:
    """What the ledger says beyond a run's budget, its limit or the cap."""
    if not path.exists():
        return []
    found = []
    with Ledger.open(path) as ledger:
        for run in ledger.runs():
            if run.steps_charged > run.limit:
                found.append("a run charged more than its limit")
        spent, terms = ledger.spent(), ledger.terms
        if terms is not None and terms.cap is not None and spent.epsilon > terms.cap.epsilon:
            found.append(f"epsilon {spent.epsilon} passes the cap")
    return found


def epsilon_of_charges(folder: Path) -> float:
    """Epsilon of all that the one run of a ledger charged, computed anew."""
    with Ledger.open(folder / "tiny.ledger") as ledger:
        (run,) = [run for run in ledger.runs() if run.status != "cancelled"]
        record = type(run.record)(**{**run.record.__dict__, "steps": run.steps_charged})
        return epsilon([record], run.cost.delta)


def logged(path: Path) -> Callable[[Any], Any]:
    """Wraps `PrivateGradient.release` so that it writes the log of `read_log`; for tests in one process."""

    def wrap(real: Any) -> Any:
        def release(self: Any, step: int, receipt: Any) -> Any:
            with path.open("a") as log:
                log.write(f"begin {self._keys.lane.hex()} {step}\n")
            released = real(self, step, receipt)
            with path.open("a") as log:
                log.write(f"done {self._keys.lane.hex()} {step}\n")
            return released

        return release

    return wrap


def cheap_trainings(replace: Callable[[Any, str, Any], None]) -> None:
    """Plans and answers of the accountant are made once, no fresh process verifies a certificate, and no pass
    is measured.

    `replace`: `setattr`, or that of a monkeypatch. Tests verify certificates themselves.
    """
    from dp_diffusers import release
    from dp_diffusers.privacy import accountant, calibration
    from dp_diffusers.recipe import Recipe
    from dp_diffusers.runtime import pass_size

    replace(pass_size, "memory_of", lambda device: None)
    replace(release, "verify_in_a_fresh_process", lambda folder: None)
    replace(Recipe, "plan", remembered(Recipe.plan, plan_key))
    replace(accountant, "epsilon", remembered(accountant.epsilon, epsilon_key))
    replace(accountant, "renyi_of_one_step", remembered(accountant.renyi_of_one_step, arguments_key))
    replace(calibration, "prefix_table", remembered(calibration.prefix_table, arguments_key))


_KNOWN: dict[tuple[str, Any], Any] = {}


def remembered(function: Callable[..., Any], key_of: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called once for each key."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        key = (function.__qualname__, key_of(*args, **kwargs))
        if key not in _KNOWN:
            _KNOWN[key] = function(*args, **kwargs)
        return _KNOWN[key]

    return called


def plan_key(recipe: Any) -> str:
    asked = (
        recipe.generation.labels,
        recipe.data.classes,
        recipe.data.label,
        recipe.data.caption,
        recipe.data.label,
        recipe.strategy.name,
        recipe.teacher,
        recipe.warmup,
    )
    numbers = recipe.budget.model_dump_json(exclude={"ledger"}) + recipe.mechanism.model_dump_json()
    return f"{numbers}{asked}"


def arguments_key(*values: Any, **named: Any) -> str:
    return repr((values, sorted(named.items())))


def epsilon_key(
    records: Any, delta: float, adjacency: str = "add_remove", *, grid: float | None = None
) -> Any:
    return tuple(records), delta, adjacency, grid


def until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    """Waits for a condition; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def small_budget(recipe: Path, steps: int | None = None) -> None:
    """Rewrites the tiny recipe: with more noise, the accountant is quicker."""
    text = recipe.read_text().replace("budget: {epsilon: 5,", "budget: {epsilon: 1,")
    recipe.write_text(text if steps is None else text.replace("steps: 3, exp", f"steps: {steps}, exp"))
