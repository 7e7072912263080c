"""A ledger in plain words: its runs as a table of 80 columns, and a bar of what is spent.

Guarantees that it can be read without colour and that it says nothing but what the ledger holds. May import
the standard library alone at the top. The JSON documents are the design's contract; fields are only added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dp_diffusers.rounding import rounded_up_text

if TYPE_CHECKING:
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.privacy.runs import Run

BAR = 24  # characters of the bar that shows what is spent
NAME = 12  # characters of a run's name, more where two begin alike


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
        "status": _status(run),
        "steps_charged": run.steps_charged,
        "limit": run.limit,
        "queries_charged": dict(run.asked),
        "epsilon": epsilon_of(run),
        "folder": run.folder,
    }


def epsilon_of(run: Run) -> float:
    """What a run charged, or, while it is open, what is reserved for it."""
    if run.status == "cancelled":
        return 0.0
    return run.cost.epsilon if run.charged_cost is None else run.charged_cost.epsilon


def table(runs: Sequence[Run], unit: str) -> Iterator[str]:
    """One line for each run; an open run counts at its limit, a cancelled one not at all.

    Several that were cancelled, as by failures before the first charge, are one line.
    """
    cancelled = [run for run in runs if _status(run) == "cancelled"]
    if len(cancelled) > 1:
        runs = [run for run in runs if run not in cancelled]
    names = short_names([run.run_id for run in runs])
    width, per = max([NAME, *map(len, names)]), max(4, len(unit))
    if runs:
        yield f"{'run':<{width}}  {'status':<9}  {'unit':<{per}}  {'steps/limit':>13}  epsilon"
    for name, run in zip(names, runs, strict=True):
        steps = f"{run.steps_charged}/{run.limit}"
        whose = "-" if run.status == "cancelled" else unit  # it fixed none
        line = f"{name:<{width}}  {_status(run):<9}  {whose:<{per}}  {steps:>13}  "
        yield line + rounded_up_text(epsilon_of(run)) + _remark(run)
    if len(cancelled) > 1:
        yield f"{len(cancelled)} cancelled, nothing charged"


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
    """What is spent, against the cap."""
    spent, cap = document["spent_epsilon"], document["cap_epsilon"]
    text = f"epsilon {rounded_up_text(spent)} spent at delta {rounded_up_text(document['delta'])}, "
    if cap is None:
        return text + ("no limit" if document["unit"] is not None else "no limit yet: the first run fixes it")
    filled = min(BAR, round(BAR * spent / cap))
    return f"{text}cap {cap:g}  [{'#' * filled}{'.' * (BAR - filled)}] {100 * spent / cap:.0f} %"
