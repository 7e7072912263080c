"""What a training takes in memory and time: estimated from the base's config, or measured on random tensors.

Guarantees that neither opens `data.path` or a ledger, and that the estimate loads no torch. May import the
standard library at the top. The numbers are those of the design's JSON document of `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_diffusers.cli.memory import estimate_memory
from dp_diffusers.cli.output import say
from dp_diffusers.cli.progress import duration
from dp_diffusers.errors import counted

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Needs:
    """memory_bytes: while training. seconds_per_step: of one with the expected units, noise left out.
    rows_per_pass: at most. None where it is not known; in_words: the lines of `plan`.
    """

    memory_bytes: int | None
    seconds_per_step: float | None = None
    rows_per_pass: int | None = None
    in_words: tuple[str, ...]


def estimated(recipe: Recipe) -> Needs:
    """From the base's config files alone."""
    found = estimate_memory(recipe)
    if found is None:
        return Needs(memory_bytes=None, in_words=(f"{MEMORY}: unknown until base {recipe.base} is there",))
    words = f"{MEMORY}: about {found / 1e9:.1f} GB (estimated from the base's config)"
    return Needs(memory_bytes=found, in_words=(words,))


def measured(recipe: Recipe, plan: Any) -> Needs:
    """On the device of the recipe, with its base loaded and its strategy applied.

    Raises what a training raises before it touches anything private.
    """
    from dp_diffusers.run import running
    from dp_diffusers.run.jobs import job_of_recipe
    from dp_diffusers.runtime.pass_curve import rows_of_a_unit

    job = job_of_recipe(
        recipe,
        plan,
        recipe.model_dump(mode="json"),
        lambda **facts: _told(facts),
        safe=Path("private"),  # of a run folder that there is not: no image is opened
    )
    size = running.measured(job)
    if size is None or size.bytes is None or size.seconds is None:
        say("note: there is nothing here that could be measured")
        return estimated(recipe)
    seconds = plan.mechanism.expected_units * rows_of_a_unit(plan, recipe.training) * size.seconds
    whole = duration(seconds * plan.mechanism.steps)
    lines = (
        f"{MEMORY}: about {size.bytes / 1e9:.1f} GB, {counted(size.rows, 'row')} at a time (measured here)",
        f"time of a step: about {seconds:.2g} s, {whole} for all of them (measured here on random tensors)",
    )
    return Needs(memory_bytes=size.bytes, seconds_per_step=seconds, rows_per_pass=size.rows, in_words=lines)


MEMORY = "memory while training"


def _told(facts: dict[str, Any]) -> None:
    if facts.get("message"):
        say(str(facts["message"]))
