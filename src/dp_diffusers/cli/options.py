"""Options that several verbs share, said once.

Guarantees the same name, meaning and help everywhere. May import typer. Names: the design's command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from typer.core import TyperCommand

from dp_diffusers.errors import EndedElsewhere, ExitCode, ParameterError
from dp_diffusers.processes.ranks import ranks_of_environment

# verbs that do not share their work between the processes of a launcher, and would all do it
IN_ONE = (
    *("audit", "bench", "demo", "evaluate", "init", "merge"),
    *("near-copies", "pretrain", "report", "study"),
)


class Verb(TyperCommand):
    """A command whose usage line names its arguments plainly, `RECIPE` rather than `{RECIPE}`."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The words after the command's name."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Runs the verb. Raises `ParameterError` for one that works in one process and is started in more."""
        ranks = ranks_of_environment()
        if ranks.several and self.name in IN_ONE:
            if not ranks.first:
                raise EndedElsewhere(ExitCode.BAD_INPUT)
            raise ParameterError(
                f"{self.name} works in one process, and a launcher started {ranks.count}",
                hint="start it without torchrun, or unset WORLD_SIZE and RANK",
            )
        return super().invoke(ctx)


RecipeFile: TypeAlias = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe: a YAML or JSON file.")]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; may be repeated."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress; of messages what nobody may miss.")
]
