"""The verb that compares: `study`.

Guarantees that it is one call of the Python API, and that its answer is a table or one JSON document. May
import typer and pathlib at the top; the libraries are loaded when the verb runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Overrides, Quiet, RecipeFile
from dp_diffusers.cli.output import answer, configure
from dp_diffusers.cli.progress import Terminal


def study(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the study.")] = Path(
        "runs/study"
    ),
    overrides: Overrides = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare variants of a recipe on public images; resumes."""
    configure(json=json, quiet=quiet, out=out)
    from dp_diffusers.recipe.study import load_study

    loaded = load_study(recipe, overrides or ())
    from dp_diffusers.studying import study as run_study

    result = run_study(loaded, out, progress=Terminal())
    answer(result.to_markdown().rstrip(), result.to_dict())
