"""Verbs that come before any image is read: `init` and `plan`.

Guarantees that neither opens `data.path`, nor loads torch unless `plan --measure` asks for it. May import
typer and pathlib at the top. The JSON of `plan` is the design's contract.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dp_diffusers.cli.options import Json, Overrides, Quiet, RecipeFile
from dp_diffusers.cli.output import answer, configure, say

if TYPE_CHECKING:
    from dp_diffusers.cli.measuring import Needs
    from dp_diffusers.recipe import Recipe


def init(
    images: Annotated[
        str,
        typer.Argument(metavar="IMAGES", help="Folder, parquet, CSV, or hf://owner/name; not opened."),
    ],
    population: Annotated[
        int | None,
        typer.Option(
            "--population",
            metavar="N",
            help="Declared public number of units in the images; without it, a blank to be filled in.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="PATH", help="Recipe to write (default: recipe.yaml beside the images)."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="NAME", help="Label column or keyword; `folder`; `null` for none."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option("--unit", metavar="NAME", help="Column naming whom images show, or `image`."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="A,B,C", help="Class names, in order.")
    ] = None,
    base: Annotated[
        str,
        typer.Option("--base", metavar="MODEL", help="Public model: a diffusers folder or a hub id."),
    ] = "runs/public",
    epsilon: Annotated[
        float, typer.Option("--epsilon", metavar="EPSILON", help="Privacy budget of a run.")
    ] = 1.0,
    every: Annotated[bool, typer.Option("--all", help="List all other keys, too, as comments.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented recipe for private images."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.cli.starter import Answers, write_starter
    from dp_diffusers.data.sources import is_hub

    beside = Path() if is_hub(images) else Path(images).absolute().parent
    path = out or beside / "recipe.yaml"
    answers = Answers(
        images=images,
        population=population,
        base=base,
        epsilon=epsilon,
        label=label,
        unit=unit,
        classes=classes,
        every=every,
    )
    write_starter(path, answers)
    if population is None:
        say(f"fill in mechanism.population in {path}: a public number of units, which is never counted")
    say(f"next: dp-diffusers plan {shlex.quote(str(path))}")
    answer(str(path), {"recipe": str(path)})


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Load the base, and measure memory and time of a step on random tensors."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a recipe will cost, before anything is touched."""
    configure(json=json, quiet=quiet)
    from dp_diffusers.cli.first_facts import ledger_fact
    from dp_diffusers.cli.ledger_note import ledger_note
    from dp_diffusers.cli.measuring import estimated, measured
    from dp_diffusers.recipe import Recipe

    settings = Recipe.load(recipe, overrides or ())
    calibrated = settings.plan()
    _note_what_is_missing(settings)
    if (note := ledger_note(settings, calibrated)) is not None:
        say(f"note: {note}")
    if (fact := ledger_fact(settings, follow=False)) is not None:
        say(f"note: {fact}")
    needs = measured(settings, calibrated) if measure else estimated(settings)
    document = {
        "epsilon": None if calibrated.not_private else calibrated.epsilon,
        "delta": calibrated.delta,
        "noise_multiplier": calibrated.noise_multiplier,
        "sampling_probability": calibrated.sampling_probability,
        "steps": settings.mechanism.steps,
        "expected_units": settings.mechanism.expected_units,
        "epsilon_rdp": calibrated.epsilon_rdp,
        "memory_bytes": needs.memory_bytes,
        "seconds_per_step": needs.seconds_per_step,
        "rows_per_pass": needs.rows_per_pass,
        "not_private": calibrated.not_private,
    }
    answer(_in_words(settings, recipe, overrides or (), calibrated, needs), document)


def _note_what_is_missing(settings: Recipe) -> None:
    """Says what a training would not find or still ask; of the images only whether they are there."""
    from dp_diffusers.cli.undecided import undecided
    from dp_diffusers.data.sources import is_hub

    if not Path(settings.base).exists():
        say(f"note: base {settings.base} is no folder here")
    if not is_hub(settings.data.path) and not Path(settings.data.path).exists():
        say(f"note: data.path {settings.data.path} is not there")
    for note in undecided(settings):
        say(f"note: {note}")


def _in_words(settings: Recipe, file: Path, overrides: Sequence[str], calibrated: Any, needs: Needs) -> str:
    """The plan, what it will take in memory, and every default that the recipe leaves to us."""
    from dp_diffusers.recipe import defaulted
    from dp_diffusers.recipe.file import read

    lines = [calibrated.explain().rstrip(), "", *needs.in_words, ""]
    lines.append("defaults taken:")
    given = read(file, overrides).value
    for key, value in defaulted(given, settings.model_dump()).items():
        lines.append(f"  {key}: {_as_yaml(value)}")
    return "\n".join(lines)


def _as_yaml(value: Any) -> str:
    """A plain value as it would be written in the recipe."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
