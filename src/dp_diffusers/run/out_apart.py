"""What a command writes, kept out of the folder of private images.

Guarantee: what was made is never taken for private images by a later training, which reads the folder whole.
Told by place, before anything is opened or paid. May import where sources lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dp_diffusers.data.sources import is_hub, is_saved
from dp_diffusers.errors import ParameterError


def require_outside_release(out: Path, release: Path) -> None:
    """Raises `ParameterError` where `out` lies in a release, whose certificate would not list it."""
    whole, place = release.resolve(), out.resolve()
    if whole == place or whole in place.parents:
        raise ParameterError(
            f"{out} lies in the release, whose certificate would not list what is written there",
            hint="leave --out out: the images then become part of the release; or give one elsewhere",
        )


def require_out_apart(out: Path, settings: Mapping[str, Any]) -> None:
    """Raises `ParameterError` where `out` is, or lies in, the folder `data.path` of a run's settings.

    A manifest and a table are files, and a folder of `save_to_disk` lists its own: what lies beside them is
    not read.
    """
    path = (settings.get("data") or {}).get("path")
    if path is None or is_hub(path) or not Path(path).is_dir() or is_saved(Path(path)):
        return
    private, place = Path(path).resolve(), out.resolve()
    if private == place or private in place.parents:
        raise ParameterError(
            f"{out} lies in data.path, the folder of the private images: the next training would read it too",
            hint="give an --out elsewhere",
        )
