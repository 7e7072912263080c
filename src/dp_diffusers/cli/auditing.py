"""The verb that attacks: `audit`.

Guarantees that the private images and their ledger are never opened, and exit code 4 where the attack got
more than the claim allows. May import typer and pathlib at the top. The document is the design's contract.
"""

from __future__ import annotations

import json as json_library
from pathlib import Path
from typing import Annotated

import typer

from dp_diffusers.cli.options import Json, Overrides, Quiet, RecipeFile
from dp_diffusers.cli.output import answer, complain, configure
from dp_diffusers.cli.progress import Terminal
from dp_diffusers.errors import ExitCode

DOCUMENT = "audit.json"


def audit(
    recipe: RecipeFile,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for audit.json and audit.svg.")
    ] = Path("runs/audit"),
    overrides: Overrides = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack the training of a recipe; opens no private image."""
    configure(json=json, quiet=quiet, out=out)
    from dp_diffusers.recipe import Recipe

    settings = Recipe.load(recipe, overrides or ())
    from dp_diffusers.auditing import audit_recipe
    from dp_diffusers.rounding import rounded_up_text

    result = audit_recipe(settings, out=out, progress=Terminal())
    document = result.to_dict()
    (out / DOCUMENT).write_text(json_library.dumps(document, indent=2) + "\n")
    answer(result.explain(), document)
    if result.refuted:
        complain(
            "this training gives away more than the claimed epsilon of "
            f"{rounded_up_text(result.epsilon_claimed)} allows; "
            f"it is at least {result.epsilon_lower_bound:.4g}{result.condition}",
            "do not release; run the audit once more, as one in twenty may err, then look for the defect",
        )
        raise typer.Exit(int(ExitCode.VERIFICATION_NEGATIVE))
