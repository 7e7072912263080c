"""What a study calls public, kept apart from the private images of its cells: by where both lie.

Guarantees that nothing is opened to tell it: names, links and the identity of files (device and number, which
two names of one file share) are looked at, pixels and bytes never. So a copy of a private image under another
name is not seen. May import the readers' names of `data`, and what tells what a model learnt from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dp_diffusers.data.apart import require_apart
from dp_diffusers.data.real_places import is_manifest
from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe import Recipe
from dp_diffusers.run.learnt_apart import require_learnt_apart

ANYONE: Final = "a study writes them to --out and calls them public: give images that anyone may see"
Identity = tuple[int, int]  # device and number of a file or folder


def require_public(sources: Sequence[Mapping[str, Any]], key: str, recipes: Sequence[Recipe]) -> None:
    """Raises `ParameterError` where public images of a study are the private ones of a cell, by place.

    sources: of the stand-in, as `load_public` takes them, named by the setting `key`; those of
    `training.public` and `teacher.public` are looked at too, and what base and features learnt from, since
    the stand-in takes the private images' name away.
    """
    named = {(key, str(source["path"])) for source in sources if source.get("path") is not None}
    named |= {
        ("training.public.path", recipe.training.public.path)
        for recipe in recipes
        if recipe.training.public is not None
    }
    named |= {
        ("teacher.public", recipe.teacher.public)
        for recipe in recipes
        if recipe.teacher is not None and recipe.teacher.public is not None
    }
    for private in sorted({recipe.data.path for recipe in recipes}):
        for setting, public in sorted(named):
            require_apart(setting, public, private, hint=ANYONE)
            if not is_hub(public) and not is_hub(private) and _same_files(Path(public), Path(private)):
                raise ParameterError(f"{setting} {public} is where the private images are", hint=ANYONE)
    for recipe in recipes:
        require_learnt_apart(recipe.model_dump(mode="json"), recipe.data.path)


def _same_files(public: Path, private: Path) -> bool:
    """Whether a file or folder on the way to public images, or below them, is the private one by identity.

    That is a hard link to a file, or a folder that is mounted, or written, under a second name.
    """
    places = [private, private.parent] if is_manifest(private) else [private]
    own = {found for place in places for found in _identity(place)}
    return any(found in own for found in _identities(public))


def _identities(public: Path) -> Iterator[Identity]:
    real = Path(os.path.realpath(public))
    for place in (real, *real.parents):
        yield from _identity(place)
    for folder, folders, names in os.walk(real):
        for name in (*folders, *names):
            yield from _identity(Path(folder, name))


def _identity(path: Path) -> Iterator[Identity]:
    """One, or none where nothing lies there."""
    try:
        found = path.stat()
    except OSError:
        return
    yield found.st_dev, found.st_ino
