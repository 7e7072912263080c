"""A held-out reference that is held out: none of it may be an image that the run was trained on.

Guarantees that no message says which image was met, nor how many. May import numpy and what the run's safe
knows of its images; the private images themselves are not opened: their places and digests are enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from dp_diffusers.data.apart import MANIFESTS, Shown, require_apart
from dp_diffusers.data.sources import is_hub
from dp_diffusers.errors import ParameterError
from dp_diffusers.run_folder import RunFolder
from dp_diffusers.run_secrets import kept_traces

HINT: Final = (
    "name images that the run never saw; or ask about the training images themselves: --charge EPSILON"
)
UNKNOWN: Final = (
    "whether the held-out images are apart from the training images could not be told: the private folder of "
    "the run does not know these"
)


def refuse_training_images(
    run: Path, key: str, path: str | Path | None, images: np.ndarray, *, hint: str = HINT
) -> tuple[str, ...]:
    """Raises `ParameterError` where held-out images are, in part or all, those that `run` was trained on.

    key: the option that named them. path: where they lie, None for arrays; images: uint8 `[N, H, W, C]`, at
    the size of the model. Looks at places, pixels and bytes. Returns what to say where that cannot be told.
    """
    folder = RunFolder(run)
    recipe = folder.settings() if folder.recipe.exists() else {}
    private = (recipe.get("data") or {}).get("path")
    if path is not None and private is not None:
        _require_another_place(key, path, private, hint)
    traces = kept_traces(folder)
    if not traces.pictures and not len(traces.windows):
        return (UNKNOWN,)
    shown = Shown.by_files(None if path is None else str(path), images)
    if shown.among(traces.pictures, traces.windows):
        raise ParameterError(f"{key} holds images that the run was trained on", hint=hint)
    return ()


def _require_another_place(key: str, path: str | Path, private: str, hint: str) -> None:
    """By place. Manifests and splits of one data set may lie side by side: these are told by pixels."""
    if is_hub(path) or is_hub(private):
        if str(path) == str(private):
            raise ParameterError(f"{key} {path} is where the private images are", hint=hint)
    elif Path(private).suffix.lower() not in MANIFESTS:
        require_apart(key, path, private, hint=hint)
    elif Path(path).resolve() == Path(private).resolve():
        raise ParameterError(f"{key} {path} is where the private images are", hint=hint)
