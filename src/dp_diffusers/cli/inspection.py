"""The verb that looks at an account: `ledger show`.

Guarantees that it changes nothing and needs neither torch nor a network. May import typer and pathlib at the
top. The JSON document is the design's contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dp_diffusers.cli.options import Json, Quiet, Verb
from dp_diffusers.cli.output import answer, configure
from dp_diffusers.errors import LedgerError

if TYPE_CHECKING:
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.privacy.runs import Run

BAR = 20  # characters of the bar that shows what is spent
ledger = typer.Typer(help="The account of a data set.", rich_markup_mode=None)


@ledger.callback()
def _ledger() -> None:
    """The account of a data set."""


@ledger.command("show", cls=Verb)
def show(
    path: Annotated[Path, typer.Argument(metavar="LEDGER", help="Ledger file.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what was spent on a data set, over all runs."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.privacy.ledger import Ledger

    if not path.is_file():
        raise LedgerError(f"ledger not found: {path}", hint="the first training writes one")
    with Ledger.open(path, create=False) as opened:
        document, lines = _account(opened), list(_runs(opened.runs()))
    answer("\n".join([*lines, _total(document)]), document)


def _account(opened: Ledger) -> dict[str, Any]:
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
        "head": opened.head,
        "entries": entries,
    }


def _runs(runs: Sequence[Run]) -> Iterator[str]:
    """One line for each run; an open run counts at its limit, a cancelled one not at all."""
    if runs:
        yield f"{'run':<32}  {'status':<9}  {'steps/limit':>13}  epsilon"
    for run in runs:
        steps = f"{run.steps_charged}/{run.limit}"
        epsilon = 0.0 if run.status == "cancelled" else run.cost.epsilon
        reserved = "  reserved" if run.status == "open" else ""
        yield f"{run.run_id:<32}  {run.status:<9}  {steps:>13}  {epsilon:.4g}{reserved}"


def _total(document: dict[str, Any]) -> str:
    """What is spent, against the cap."""
    spent, cap = document["spent_epsilon"], document["cap_epsilon"]
    text = f"epsilon {spent:.4g} spent at delta {document['delta']:g}, "
    if cap is None:
        return text + "no limit"
    filled = min(BAR, round(BAR * spent / cap))
    return f"{text}cap {cap:g}  [{'#' * filled}{'.' * (BAR - filled)}] {100 * spent / cap:.0f} %"
