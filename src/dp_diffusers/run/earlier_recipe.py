"""The recipe that a run folder belongs to, against the one that is asked for now.

Guarantees that a folder of another recipe is refused before any heavy library is loaded. May import pydantic
and PyYAML, never torch. Source: the contract of `train`; only where it runs may differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import ModelError, RunFolderError
from dp_diffusers.recipe.file import differing_keys
from dp_diffusers.recipe.new_keys import with_new_keys
from dp_diffusers.run.folder import RunFolder

AGAIN: Final = "give another --out, or run the recipe as it was"
PUT_BACK: Final = "put it back, or a link to it in its place"
_NOTHING: Final = "where nothing is now"
DRAWN: Final = (
    "`generate RUN --set generation.KEY=VALUE` draws in another way; train with the recipe as it was"
)


def require_same_recipe(folder: RunFolder, settings: dict[str, Any]) -> None:
    """Raises `RunFolderError` naming what differs from the recipe of the folder, if it has one.

    `ModelError` where that is no more than its base, which is not there: it was moved, nobody chose another.
    """
    if not folder.recipe.exists():
        return
    before, now = with_new_keys(folder.settings()), with_new_keys(settings)
    different = differing_keys(before, now, ("runtime.",))
    _refuse_missing_base(before, now, different)
    if different:
        verb = "differs" if len(different) == 1 else "differ"
        raise RunFolderError(
            f"{folder.root} belongs to another recipe: {', '.join(different)} {verb}",
            hint=_what_helps(different, before),
        )


def _what_helps(different: list[str], before: Any) -> str:
    if all(key.startswith("generation.") for key in different):
        return DRAWN
    data = before.get("data") or {}
    if "data.path" in different and _is_gone(data.get("path")):  # a run belongs to the place of its images
        return f"the run knows its images at {data['path']}, {_NOTHING}: move them back, or put a link there"
    if "base" in different and _is_gone(before.get("base")):
        return f"the run knows its base model at {before['base']}, {_NOTHING}: {PUT_BACK}"
    return AGAIN


def _refuse_missing_base(before: Any, now: Any, different: list[str]) -> None:
    """A name that leads to no folder stays as it is written, and differs from the place that it led to."""
    was, given = before.get("base"), Path(str(now.get("base")))
    if different == ["base"] and _is_gone(was) and not given.exists() and given.name == Path(was).name:
        raise ModelError(f"base model {was} is not there", hint=PUT_BACK)


def _is_gone(path: Any) -> bool:
    """Whether a place that a run noted is there no more; of a name on the Hub nothing is said."""
    return isinstance(path, str) and Path(path).is_absolute() and not Path(path).exists()
