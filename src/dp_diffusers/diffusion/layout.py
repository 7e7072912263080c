"""Folders that stock diffusers opens when it is told how, and that are not opened here: what is in them.

Guarantee: a folder that is whole is not called damaged. May import the errors alone. Source: the names of
files in diffusers' `save_pretrained`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dp_diffusers.errors import ModelError

_VARIANT: Final = re.compile(r"[a-z_]+\.(\w+)(?:-\d+-of-\d+)?\.safetensors")
_SAVED: Final = "DiffusionPipeline.from_pretrained(DIR{how}).save_pretrained(NEW), once; then NEW is the base"


def unusual(folder: Path, component: str) -> ModelError | None:
    """What to raise for a folder that could not be opened and may be whole; None for one that is damaged."""
    if not (folder / component).exists() and (folder / "config.json").exists():
        return ModelError(
            f"{folder} has its network beside model_index.json, not in {component}/", hint=_hint()
        )
    for part in _parts(folder):
        names = [path.name for path in part.iterdir()]
        variants = {found[1] for name in names if (found := _VARIANT.fullmatch(name))}
        if any(name.endswith(".safetensors") and not _VARIANT.fullmatch(name) for name in names):
            continue
        if variants:
            variant = min(variants)
            return ModelError(
                f"{folder} has no weights in {part.name}/ but those of the variant {variant}",
                hint=_hint(f', variant="{variant}"'),
            )
        if any(name.endswith(".bin") for name in names):
            return ModelError(
                f"{folder} has no weights in {part.name}/ but .bin files, which may hold programs too",
                hint=f"where you trust them: {_hint()}",
            )
    return None


def _hint(how: str = "") -> str:
    return _SAVED.format(how=how)


def _parts(folder: Path) -> Iterator[Path]:
    """Folders of the components that the folder names."""
    index: object = None
    with contextlib.suppress(OSError, ValueError):
        index = json.loads((folder / "model_index.json").read_text())
    for name in sorted(index) if isinstance(index, dict) else ():
        if (folder / name).is_dir():
            yield folder / name
