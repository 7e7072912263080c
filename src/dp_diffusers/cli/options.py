"""Options that several verbs share, said once.

Guarantees the same name, meaning and help everywhere. May import typer. Names: the design's command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from typer.core import TyperCommand


class Verb(TyperCommand):
    """A command whose usage line names its arguments plainly, `RECIPE` rather than `{RECIPE}`."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The words after the command's name."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


RecipeFile: TypeAlias = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe: a YAML or JSON file.")]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; may be repeated."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages.")]
