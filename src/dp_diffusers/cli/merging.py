"""The verb `merge`: a release as a whole model that stock diffusers opens.

Guarantees that it is one call of the Python API and that its answer is a path and a bound. May import typer
and pathlib at the top; the libraries are loaded when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Quiet
from dp_diffusers.cli.output import answer, configure, say


def merge(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder of a finished training, or a release folder.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the merged model; new or empty.")
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="Folder or hub id of the base (default: the recipe's)."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write base and adapter as one diffusers folder."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.diffusion import merged_from
    from dp_diffusers.merging import merge as run_merging

    folder = run_merging(run, out, base=base)
    origins = merged_from.load(folder)
    not_private = any(origin["not_private"] for origin in origins)
    if not_private:
        say("NOT PRIVATE: the merged model may reveal its training images")
    bound = {name: origins[-1][name] for name in ("epsilon", "delta")}
    answer(str(folder), {"model": str(folder), **bound, "not_private": not_private})
