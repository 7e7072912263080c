"""The recipe that a run folder belongs to, against the one that is asked for now.

Guarantees that a folder of another recipe is refused before any heavy library is loaded. May import pydantic
and PyYAML, never torch. Source: the contract of `train`; only where it runs may differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import RunFolderError
from dp_diffusers.recipe.file import differing_keys
from dp_diffusers.recipe.new_keys import with_new_keys
from dp_diffusers.run.folder import RunFolder

AGAIN: Final = "give another --out, or run the recipe as it was"
DRAWN: Final = (
    "`generate RUN --set generation.KEY=VALUE` draws in another way; train with the recipe as it was"
)


def require_same_recipe(folder: RunFolder, settings: dict[str, Any]) -> None:
    """Raises `RunFolderError` naming what differs from the recipe of the folder, if it has one."""
    if not folder.recipe.exists():
        return
    before, now = with_new_keys(folder.settings()), with_new_keys(settings)
    different = differing_keys(before, now, ("runtime.",))
    if different:
        verb = "differs" if len(different) == 1 else "differ"
        raise RunFolderError(
            f"{folder.root} belongs to another recipe: {', '.join(different)} {verb}",
            hint=_what_helps(different, before),
        )


def _what_helps(different: list[str], before: Any) -> str:
    if all(key.startswith("generation.") for key in different):
        return DRAWN
    return ("data.path" in different and _moved(before)) or AGAIN


def _moved(before: Any) -> str | None:
    """What helps where the images are no longer where the run knows them: a run belongs to their place."""
    path = (before.get("data") or {}).get("path")
    if not isinstance(path, str) or not Path(path).is_absolute() or Path(path).exists():
        return None
    return f"the run knows its images at {path}, where nothing is now: move them back, or put a link there"
