"""Verbs that look: `ledger show` and `certificate verify`.

Guarantees that they change nothing and need neither torch nor a network. May import typer and pathlib at the
top. The JSON documents are the design's contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dp_diffusers.cli.options import Json, Quiet, Verb
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.errors import ExitCode, InputError, LedgerError

if TYPE_CHECKING:
    from dp_diffusers.privacy.ledger import Ledger

ledger = typer.Typer(help="The account of a data set.", rich_markup_mode=None)
certificate = typer.Typer(help="What a release certifies.", rich_markup_mode=None)


@ledger.callback()
def _ledger() -> None:
    """The account of a data set."""


@certificate.callback()
def _certificate() -> None:
    """What a release certifies."""


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
        document = _account(opened)
    cap = "no limit" if document["cap_epsilon"] is None else f"cap {document['cap_epsilon']:g}"
    text = f"epsilon {document['spent_epsilon']:.4g} spent at delta {document['delta']:g}, {cap}"
    answer("\n".join([text, *map(_line, document["entries"])]), document)


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


def _line(entry: dict[str, Any]) -> str:
    """One entry as text."""
    return f"{entry['seq']:>6}  {entry.get('at', ''):<25}  {entry['kind']:<8}  {entry['run']}".rstrip()


@certificate.command("verify", cls=Verb)
def verify(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="Release folder.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recompute epsilon and every checksum of a release."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.privacy.certificate import Certificate

    if not release.is_dir():
        raise InputError(f"release folder not found: {release}")
    if (release / "release").is_dir():  # a run folder was meant
        release = release / "release"
    found = Certificate.verify(release)
    document = {"valid": found.valid, "epsilon": found.epsilon, "problems": list(found.problems)}
    answer("valid" if found.valid else "not valid", document)
    for problem in found.problems:
        complain(str(problem))
    if not found.valid:
        raise typer.Exit(int(ExitCode.VERIFICATION_NEGATIVE))
