"""Verbs on the ledger of a data set: `ledger show`, `settle`, `abandon`, `export`.

Guarantees that looking changes nothing, that closing a run gives back nothing it charged, and that none needs
torch or a network. May import typer and pathlib at the top. The JSON documents are the design's contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dp_diffusers.cli.account_text import (
    document_of,
    epsilon_of,
    open_lines,
    run_document,
    table,
    total_line,
    vacuous_line,
)
from dp_diffusers.cli.options import Json, Quiet, Verb
from dp_diffusers.cli.output import answer, configure, say
from dp_diffusers.errors import InputError, LedgerError
from dp_diffusers.rounding import rounded_up_text

if TYPE_CHECKING:
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.privacy.runs import Run

ledger = typer.Typer(help="The account of a data set.", rich_markup_mode=None)
LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="Ledger file.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its beginning.")]
Unseen = Annotated[
    bool,
    typer.Option(
        "--unseen",
        help="State that nobody has seen anything the run made, as when its machine was lost: it then counts "
        "what it charged.",
    ),
]
StoppedElsewhere = Annotated[
    bool,
    typer.Option(
        "--stopped-elsewhere",
        help="State that the process which worked on it has ended, where its run folder cannot be seen from "
        "here, as from outside a container or on another machine.",
    ),
]


@ledger.callback()
def _ledger() -> None:
    """The account of a data set."""


@ledger.command("show", cls=Verb)
def show(
    path: LedgerPath,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE.svg", help="Also draw the spending against the cap."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what was spent on a data set, over all runs."""
    configure(json=json, quiet=quiet)
    with _opened(path) as opened:
        document = document_of(opened)
        lines = [*table(opened.runs(), document["unit"] or "none yet"), *open_lines(opened)]
        lines += [total_line(document)]
        lines += filter(None, [vacuous_line(opened)])
        if picture is not None:
            _draw(opened, picture)
    answer("\n".join(lines), document)


@ledger.command("settle", cls=Verb)
def settle(
    path: LedgerPath,
    run: RunName,
    unseen: Unseen = False,
    stopped_elsewhere: StoppedElsewhere = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Close an open run for good; alone it counts all that it reserved."""
    configure(json=json, quiet=quiet)
    with _opened(path) as opened:
        closed = opened.settle(run, unseen=unseen, stopped_elsewhere=stopped_elsewhere)
        _say_what_is_released(opened, closed)


@ledger.command("abandon", cls=Verb)
def abandon(
    path: LedgerPath,
    run: RunName,
    unseen: Unseen = False,
    stopped_elsewhere: StoppedElsewhere = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give an open run up for good; what it charged stays charged."""
    configure(json=json, quiet=quiet)
    with _opened(path) as opened:
        closed = opened.abandon(run, unseen=unseen, stopped_elsewhere=stopped_elsewhere)
        _say_what_is_released(opened, closed)


@ledger.command("export", cls=Verb)
def export(path: LedgerPath, quiet: Quiet = False) -> None:
    """Write all entries as JSON lines, each with its hash."""
    configure(quiet=quiet)
    with _opened(path) as opened:
        for line in opened.export():
            print(line, flush=True)


def _opened(path: Path) -> Ledger:
    from dp_diffusers.privacy.ledger import Ledger

    if path.is_dir():
        raise LedgerError(
            f"expected a ledger file, got the folder {path}", hint="give a file, such as x.ledger"
        )
    if not path.is_file():
        raise LedgerError(f"ledger not found: {path}", hint="the first training writes one")
    return Ledger.open(path, create=False)


def _draw(opened: Ledger, target: Path) -> None:
    from dp_diffusers.reporting.ledger_picture import picture

    if target.suffix.lower() != ".svg":
        raise InputError(f"expected --picture to end in .svg, got {target.name}", hint="it writes SVG")
    try:
        target.write_text(picture(opened), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}", hint="choose another --picture"
        ) from error
    say(f"picture: {target}")


def _say_what_is_released(opened: Ledger, run: Run) -> None:
    """What a closed run counts from now on, and what the ledger comes to."""
    after, reserved, counted = opened.spent(), run.reserved_cost.epsilon, run.cost.epsilon
    closed = run_document(run)
    how = f"run {run.run_id} is {closed['status']}: {run.steps_charged} of {run.record.steps} steps charged"
    of = f"{rounded_up_text(reserved)} reserved, at delta {rounded_up_text(run.cost.delta)}"
    lines = [f"{how}, epsilon {rounded_up_text(epsilon_of(run))} of {of}"]
    if run.status == "settled" and counted > epsilon_of(run):
        lines.append(
            f"alone it counts all of {rounded_up_text(counted)}, as who stopped it may have seen its steps; "
            "beside other runs it counts what it charged where the cap leaves room for them"
        )
    lines.append(total_line({**document_of(opened)}))
    numbers = {"counted_epsilon": counted, "reserved_epsilon": reserved, "spent_epsilon": after.epsilon}
    answer("\n".join(lines), {**closed, **numbers, "head": opened.head})
