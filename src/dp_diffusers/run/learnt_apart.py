"""What a base, or a network of a teacher's features, learnt from, kept apart from the private images.

Guarantee: a folder of `pretrain` that says it learnt from where the private images lie is refused, before
anything is reserved; nothing private is opened for it. Of other models nobody knows what they learnt from;
copies of the images are not seen, nor what lies behind a merge. May import
where sources lie, and what a pre-training leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dp_diffusers.data.apart import require_apart
from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation.features import EXTRACTORS
from dp_diffusers.pretraining import RECORD


def require_learnt_apart(settings: Mapping[str, Any], private: str | None) -> None:
    """settings: of a run, as a plain document. private: where its private images lie, None for arrays.

    Raises `ParameterError` where a model of the run learnt from them.
    """
    if private is None:
        return
    for key, folder in _models(settings):
        for path in _learnt_from(folder):
            _require_apart(key, folder, path, private)


def _require_apart(key: str, folder: Path, path: str, private: str) -> None:
    hint = "start from a model that never saw them: no noise protects what it learnt"
    try:
        require_apart(key, path, private, hint=hint)
    except ParameterError as error:
        message = f"{key}: {folder} learnt from {path}, which is where the private images are"
        raise ParameterError(message, hint=error.hint) from error
    except (OSError, DataError):
        return  # what lies there now cannot be read, and says nothing of what lay there


def _models(settings: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Folders of models; the name of an extractor or of the hub is none that has a record."""
    yield "base", Path(str(settings["base"]))
    teacher = settings.get("teacher")
    if teacher and teacher["features"] not in EXTRACTORS:
        place = Path(str(teacher["features"]))
        yield "teacher.features", place.parent if place.is_file() else place


def _learnt_from(folder: Path) -> Iterator[str]:
    """Where the public images of a pre-training lay, as it says itself."""
    try:
        sources = json.loads((folder / RECORD).read_text(encoding="utf-8"))["recipe"]["data"]
        paths = [str(source["path"]) for source in sources if source.get("path")]
        yield from [path for path in paths if is_hub(path) or Path(path).is_absolute()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no folder of ours
