"""The verb that shows: `report`.

Guarantees that it is one call of the Python API and that its answer is the path of a page. May import typer
and pathlib at the top; the libraries are loaded when the verb runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Quiet
from dp_diffusers.cli.output import answer, configure
from dp_diffusers.cli.progress import Terminal


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folder of a finished training; or several.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="Where to write (default: RUN/release/report.html)."),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Put scores of real images into the release too.")
    ] = False,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", metavar="DIR", help="Also show this audit of the run's recipe."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a release, or compare several, on one page."""
    configure(json=json, quiet=quiet, out=runs[0])
    from dp_diffusers.run.folder import RunFolder

    for run in runs:
        RunFolder(run).require_finished()
    from dp_diffusers.reporting import report as run_report

    page = run_report(*runs, out=out, scores=scores, audit=audit, progress=Terminal())
    answer(str(page), {"report": str(page), "runs": [str(run) for run in runs]})
