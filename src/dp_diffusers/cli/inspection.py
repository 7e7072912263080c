"""Verbs that look: `ledger show` and `certificate verify`.

Guarantees that they change nothing and need neither torch nor a network. May import typer and pathlib at the
top. The JSON documents are the design's contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Quiet
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.errors import ExitCode, LedgerError

ledger = typer.Typer(help="The account of a data set.", rich_markup_mode=None)
certificate = typer.Typer(help="What a release certifies.", rich_markup_mode=None)


@ledger.callback()
def _ledger() -> None:
    """The account of a data set."""


@certificate.callback()
def _certificate() -> None:
    """What a release certifies."""


@ledger.command("show")
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
    opened = Ledger.open(path)
    summary = opened.summary()
    lines = [f"{key}: {value}" for key, value in summary.items() if key != "entries"]
    answer("\n".join([*lines, f"entries: {len(summary['entries'])}"]), summary)


@certificate.command("verify")
def verify(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="Release folder.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recompute epsilon and every checksum of a release."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.privacy.certificate import Certificate

    found = Certificate.verify(release)
    document = {"valid": found.valid, "epsilon": found.epsilon, "problems": list(found.problems)}
    answer("valid" if found.valid else "not valid", document)
    for problem in found.problems:
        complain(str(problem))
    if not found.valid:
        raise typer.Exit(int(ExitCode.VERIFICATION_NEGATIVE))
