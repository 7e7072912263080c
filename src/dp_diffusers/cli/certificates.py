"""Verbs on a release's certificate: `certificate verify`.

Guarantees that verifying changes nothing and needs neither torch nor a network. May import typer and pathlib
at the top. The JSON document is the design's contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Quiet, Verb
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.errors import ExitCode, InputError

certificate = typer.Typer(help="What a release certifies.", rich_markup_mode=None)


@certificate.callback()
def _certificate() -> None:
    """What a release certifies."""


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
    document = {
        "valid": found.valid,
        "epsilon": found.epsilon,
        "problems": list(found.problems),
        "not_private": found.not_private,
        "delta": found.delta,
        "unit": found.unit,
    }
    answer(found.explain(), document)
    for problem in found.problems:
        complain(str(problem))
    if not found.valid:
        raise typer.Exit(int(ExitCode.VERIFICATION_NEGATIVE))
