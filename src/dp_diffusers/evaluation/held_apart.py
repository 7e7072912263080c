"""A held-out reference that is held out: none of it may be an image that the run was trained on.

Guarantees that no message says which image was met, nor how many. May import numpy and what the run's safe
knows of its images; the private images themselves are not opened: their places and digests are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp_diffusers.data.apart import Shown, require_apart
from dp_diffusers.data.real_places import is_manifest
from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.plain_images import plain_images
from dp_diffusers.evaluation.reading import AsTheRun, as_the_run
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.run.run_secrets import kept_traces

HINT: Final = (
    "name images that the run never saw; or ask about the training images themselves: --charge EPSILON"
)
UNKNOWN: Final = (
    "whether the held-out images are apart from the training images could not be told: the private folder of "
    "the run does not know these"
)
IN_NO_RUN: Final = (
    "whether the reference is apart from the training images cannot be told: these images lie in no run"
)


def run_around(images: object) -> Path | None:
    """The run folder that a path to synthetic images lies in, however deep; None for none, or for arrays.

    Links are followed; where that leads out of a run, the run that holds the link is the one.
    """
    if not isinstance(images, str | Path) or is_hub(images):
        return None
    for start in (Path(images).resolve(), Path(images).absolute()):
        for place in (start, *start.parents):
            if (place / "certificate.json").exists():
                return place.parent
            if (place / "release" / "certificate.json").exists():
                return place
    return None


def refuse_training_images(
    run: Path, key: str, path: str | Path | None, images: np.ndarray, *, hint: str = HINT
) -> tuple[str, ...]:
    """Raises `ParameterError` where held-out images are, in part or all, those that `run` was trained on.

    key: the option that named them. path: where they lie, None for arrays; images: uint8 `[N, H, W, C]`, at
    the size of the model. Looks at places, pixels and bytes. Returns what to say where that cannot be told.
    """
    folder = RunFolder(run)
    private = _data_settings(folder).get("path")
    if path is not None and private is not None:
        _require_another_place(key, path, private, hint)
    traces = kept_traces(folder)
    if not traces.pictures and not len(traces.windows):
        return (UNKNOWN,)
    if any(shown.among(traces.pictures, traces.windows) for shown in shown_to(folder, path, images)):
        raise ParameterError(f"{key} holds images that the run was trained on", hint=hint)
    return ()


def has_training_images(run: Path | None, path: str | Path | None, images: np.ndarray) -> bool | None:
    """Whether images are, in part or all, those that `run` was trained on; None where that cannot be told."""
    if run is None:
        return None
    try:
        unknown = refuse_training_images(run, "real", path, images)
    except ParameterError:
        return True
    return None if unknown else False


def as_its_own(run: Path | None) -> AsTheRun:
    """How real images are read to be like those of `run`: by its column of labels, squares and window."""
    return as_the_run({} if run is None else _data_settings(RunFolder(run)))


def shown_to(folder: RunFolder, path: str | Path | None, images: np.ndarray) -> Iterator[Shown]:
    """What held-out `images` (uint8 `[N, H, W, C]`, cut to a square) show, to look for it among the run's.

    The training may have padded its images, or seen other values of a DICOM image: those at `path` are then
    read as the training would have read them, too.
    """
    yield Shown.by_files(None if path is None else str(path), images)
    how = as_the_run(_data_settings(folder))
    resize, window = how["resize"], how["window"]
    if path is None or (resize == "crop" and window is None):
        return
    _, side, channels = images.shape[1:]
    yield Shown.by_files(None, plain_images(path, size=side, channels=channels, resize=resize, window=window))


def _data_settings(folder: RunFolder) -> dict[str, Any]:
    """The section `data` of the run's recipe; empty for a run that a call made."""
    return (folder.settings().get("data") or {}) if folder.recipe.exists() else {}


def _require_another_place(key: str, path: str | Path, private: str, hint: str) -> None:
    """By place. Manifests and splits of one data set may lie side by side: these are told by pixels."""
    if is_hub(path) or is_hub(private):
        if str(path) == str(private):
            raise ParameterError(f"{key} {path} is where the private images are", hint=hint)
    elif not is_manifest(Path(private)):
        require_apart(key, path, private, hint=hint)
    elif Path(path).resolve() == Path(private).resolve():
        raise ParameterError(f"{key} {path} is where the private images are", hint=hint)
