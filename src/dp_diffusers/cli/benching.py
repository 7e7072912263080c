"""The verb that times: `bench`.

Guarantees that it is one call of the Python API, and that its answer is a table or one JSON document. May
import typer and pathlib at the top; the libraries are loaded when the verb runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Quiet
from dp_diffusers.cli.output import answer, configure
from dp_diffusers.cli.progress import Terminal


def bench(
    full: Annotated[bool, typer.Option("--full", help="The whole grid: hours instead of minutes.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="KEY=VALUE", help="Only rows with this field; may be repeated."),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Rounds that count; 6 and more: 95 % intervals.")
    ] = 6,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu or cuda.")] = "auto",
    clock: Annotated[
        str,
        typer.Option(
            "--clock", metavar="wall|processor", help="processor: for a machine that does other work."
        ),
    ] = "wall",
    profile: Annotated[bool, typer.Option("--profile", help="Where the time of a step goes, too.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path(
        "runs/bench"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time private steps beside plain ones and other engines."""
    configure(json=json, quiet=quiet, out=out)
    from dp_diffusers.benching import bench as run_bench

    result = run_bench(
        out=out,
        full=full,
        only=only or (),
        rounds=rounds,
        device=device,
        clock=clock,
        profile=profile,
        progress=Terminal(),
    )
    answer(result.to_markdown(), result.to_dict())
