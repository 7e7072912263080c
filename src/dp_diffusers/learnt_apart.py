"""What a base, or a network of a teacher's features, learnt from, kept apart from the private images.

Guarantee: a folder of `pretrain` that says it learnt from where the private images lie is refused, before
anything is reserved; nothing private is opened for it. Of other models nobody knows what they learnt from;
copies of the images are not seen. May import the standard library and the sources' places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dp_diffusers.data.apart import require_apart
from dp_diffusers.errors import ParameterError

RECORD: Final = "pretraining.json"


def require_learnt_apart(settings: Mapping[str, Any]) -> None:
    """settings: of a run, as a plain document; a call in Python names no place of private images.

    Raises `ParameterError` where a model of the run learnt from them.
    """
    private = (settings.get("data") or {}).get("path")
    if private is None:
        return
    for key, folder in _models(settings):
        for path in _learnt_from(Path(folder)):
            try:
                require_apart(key, path, private, hint="")
            except ParameterError as error:
                raise ParameterError(
                    f"{key}: {folder} learnt from {path}, which is where the private images are",
                    hint="start from a model that never saw them: no noise protects what it learnt",
                ) from error


def _models(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "base", str(settings["base"])
    if teacher := settings.get("teacher"):
        yield "teacher.features", str(teacher["features"])


def _learnt_from(folder: Path) -> Iterator[str]:
    """Where the public images of a pre-training lay, as it says itself."""
    try:
        sources = json.loads((folder / RECORD).read_text(encoding="utf-8"))["recipe"]["data"]
        yield from [str(source["path"]) for source in sources if source.get("path")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no folder of ours
