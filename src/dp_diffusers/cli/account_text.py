"""A ledger in plain words: its runs as a table of 80 columns, and a bar of what is spent.

Guarantees that it can be read without colour and that it says nothing but what the ledger holds. May import
the standard library alone at the top. The JSON documents are the design's contract; fields are only added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from dp_diffusers.rounding import rounded_up_text

if TYPE_CHECKING:
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.privacy.runs import Run

BAR = 10  # characters of the bar that shows what is spent
NAME = 12  # characters of a run's name, more where two begin alike
_KINDS = {"count": "question", "pe": "votes"}  # by the mechanism that a run charges; else a training


def document_of(opened: Ledger) -> dict[str, Any]:
    """The JSON document of a ledger."""
    spent, terms = opened.spent(), opened.terms
    cap = terms.cap if terms is not None else None
    entries = [
        {"seq": entry.seq, "kind": entry.kind, "run": entry.run, **entry.content}
        for entry in opened.entries()
    ]
    return {
        "spent_epsilon": spent.epsilon,
        "cap_epsilon": None if cap is None else cap.epsilon,
        "cap_delta": None if cap is None else cap.delta,
        "delta": spent.delta,
        "rule": spent.rule,
        "unit": None if terms is None else terms.unit,
        "head": opened.head,
        "runs": [run_document(run) for run in opened.runs()],
        "entries": entries,
    }


def run_document(run: Run) -> dict[str, Any]:
    """Where one run stands, for JSON."""
    return {
        "run": run.run_id,
        "kind": _kind(run),
        "status": _status(run),
        "steps_charged": run.steps_charged,
        "limit": run.limit,
        "queries_charged": dict(run.asked),
        "epsilon": epsilon_of(run),
        "delta": run.cost.delta,
        "folder": run.folder,
    }


def epsilon_of(run: Run) -> float:
    """What a run charged, or, while it is open, what is reserved for it."""
    if run.status == "cancelled":
        return 0.0
    return run.cost.epsilon if run.charged_cost is None else run.charged_cost.epsilon


def table(runs: Sequence[Run], unit: str) -> Iterator[str]:
    """One line for each run; an open run counts at its limit, a cancelled one not at all.

    Before the steps stands what they are: those of a training, of votes, or one question. The delta of each
    epsilon stands in its line, or once above them where it is the same for all.
    Several that were cancelled, as by failures before the first charge, are one line.
    """
    cancelled = [run for run in runs if _status(run) == "cancelled"]
    if len(cancelled) > 1:
        runs = [run for run in runs if run not in cancelled]
    names = short_names([run.run_id for run in runs])
    deltas = {_delta(run) for run in runs if run.status != "cancelled"}
    width, per = max([NAME, *map(len, names)]), max(4, len(unit))
    if runs:
        at = f" at {deltas.pop()}" if (together := len(deltas) == 1) else ""
        yield f"{'run':<{width}}  {'status':<9}  {'unit':<{per}}  {'steps/limit':>16}  epsilon{at}"
    for name, run in zip(names, runs, strict=True):
        steps = f"{_kind(run)} {run.steps_charged}/{run.limit}"
        whose = "-" if run.status == "cancelled" else unit  # it fixed none
        line = f"{name:<{width}}  {_status(run):<9}  {whose:<{per}}  {steps:>16}  "
        own = "" if together or run.status == "cancelled" else f" at {_delta(run)}"
        yield line + rounded_up_text(epsilon_of(run)) + own + _remark(run)
    if len(cancelled) > 1:
        yield f"{len(cancelled)} cancelled, nothing charged"


def open_lines(opened: Ledger) -> Iterator[str]:
    """Where each open run is, and what of its reservation is charged: that much is gone for good."""
    runs = opened.runs()
    for name, run in zip(short_names([run.run_id for run in runs]), runs, strict=True):
        if run.status != "open" or not (run.folder or run.charged):
            continue
        where = "" if run.folder is None else f" in {run.folder}"
        charged = rounded_up_text(opened.cost_of_charged(run).epsilon) if run.charged else "0"
        yield f"{name} is open{where}: epsilon {charged} of its {rounded_up_text(epsilon_of(run))} charged"


def _kind(run: Run) -> str:
    return _KINDS.get(run.record.name, "training")


def _delta(run: Run) -> str:
    return f"delta {rounded_up_text(run.cost.delta)}"


def _status(run: Run) -> str:
    return "abandoned" if run.abandoned else run.status


def _remark(run: Run) -> str:
    if run.status == "open":
        return "  reserved"
    if run.status == "settled" and run.cost.epsilon > epsilon_of(run):
        return f"  counts as {rounded_up_text(run.cost.epsilon)}"
    return ""


def short_names(names: Sequence[str]) -> list[str]:
    """The names, cut to the shortest length of at least `NAME` at which they differ."""
    for length in range(NAME, max(map(len, names), default=NAME)):
        if len({name[:length] for name in names}) == len(set(names)):
            return [name[:length] for name in names]
    return list(names)


def total_line(document: dict[str, Any]) -> str:
    """What is spent, or reserved by open runs, against the cap; both at the cap's delta."""
    spent, cap, delta = document["spent_epsilon"], document["cap_epsilon"], rounded_up_text(document["delta"])
    held = any(run["status"] == "open" for run in document["runs"])
    said = f"epsilon {rounded_up_text(spent)} {'spent or reserved' if held else 'spent'}"
    if cap is None:
        limit = "no limit" if document["unit"] is not None else "no limit yet: the first run fixes it"
        return f"{said} at delta {delta}, {limit}"
    filled = min(BAR, round(BAR * spent / cap))
    text = f"{said}, cap {cap:g}, both at delta {delta}"
    return f"{text}  [{'#' * filled}{'.' * (BAR - filled)}] {ceil(round(100 * spent / cap, 6))} %"


def vacuous_line(opened: Ledger) -> str | None:
    """What to know of a total whose delta is not below 1 / population; None where it is."""
    from dp_diffusers.privacy.budget import promises_nothing

    populations = [run.record.population for run in opened.runs() if run.status != "cancelled"]
    delta, most = opened.spent().delta, max(populations, default=1)
    if not promises_nothing(delta, most):
        return None
    return f"delta {delta:.4g} is not below 1 / population = {1 / most:.3g}: this total promises nothing"
