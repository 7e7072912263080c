"""The verb that looks for copies inside the safe: `near-copies`.

Guarantees that the answer says where the findings are and none of them, and exit code 4 where a charged
answer is yes. May import typer and pathlib at the top; the libraries are loaded when the verb runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Quiet
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.cli.progress import Terminal
from dp_diffusers.errors import ExitCode


def near_copies(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a finished training.")],
    held_out: Annotated[
        Path, typer.Option("--held-out", metavar="PATH", help="Real images that the run never saw.")
    ],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="NAME",
            help="What sees them: efficientnet-lite0-64 or -128, inception-v3[:WEIGHTS], or a folder.",
        ),
    ] = "efficientnet-lite0-64",
    charge: Annotated[
        float | None,
        typer.Option(
            "--charge",
            metavar="EPSILON",
            help="Also a yes or no that may leave, paid from the run's ledger.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for copies of training images in a release."""
    configure(json=json, quiet=quiet, out=run)
    from dp_diffusers.run.folder import RunFolder

    RunFolder(run).require_finished()
    from dp_diffusers.copy_check import near_copies as run_check

    found = run_check(run, held_out, features=features, charge=charge, progress=Terminal())
    answer(found.explain(), found.to_dict())
    if found.is_copied:
        complain(
            "more training units are near to synthetic images than held-out images explain",
            f"do not release before someone has looked at {found.sheet}, inside the safe",
        )
        raise typer.Exit(int(ExitCode.VERIFICATION_NEGATIVE))
