"""Where a merged model comes from: the releases whose adapters are in its weights, in a sidecar beside them.

Guarantees that a later training on such a model can say what the model learnt and under which bound, and
that none which promises privacy begins at weights that promise none. Imports the standard library. The
sidecar lies beside `model_index.json`, as `patch.json` does; stock diffusers does not mind it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from dp_diffusers.errors import ModelError

SIDECAR: Final = "merged_from.json"
Origin: TypeAlias = Mapping[str, Any]
"""One release: {certificate_sha256, adapter_sha256, not_private, epsilon, delta, unit, adjacency}."""


def save(folder: Path, origins: Sequence[Origin]) -> None:
    """Writes the sidecar; a model that comes from no release gets none."""
    if origins:
        document = {"merged_from": [dict(origin) for origin in origins]}
        (folder / SIDECAR).write_text(json.dumps(document, indent=2) + "\n")


def load(folder: Path) -> tuple[Origin, ...]:
    """The releases that a saved model comes from, the earliest first; none for a public model.

    Raises `ModelError` for a sidecar that was damaged.
    """
    path = folder / SIDECAR
    if not path.exists():
        return ()
    try:
        origins = json.loads(path.read_text())["merged_from"]
        sound = isinstance(origins, list) and bool(origins) and all(map(_is_sound, origins))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ModelError(
            f"{path} is damaged: it says which releases are in this model", hint="merge the release again"
        )
    return tuple(origins)


def require_bounded(origins: Sequence[Origin]) -> None:
    """Raises `ModelError` where one of them is NOT PRIVATE: what is trained on top would not be, either."""
    if any(origin["not_private"] for origin in origins):
        raise ModelError(
            "the base model was merged from a release that is NOT PRIVATE, and so is what is trained on it",
            hint="take a public base model, or mechanism.name none",
        )


def _is_sound(origin: Any) -> bool:
    named = isinstance(origin["certificate_sha256"], str) and isinstance(origin["adapter_sha256"], str)
    if not (named and isinstance(origin["not_private"], bool)):
        return False
    words, numbers = (origin["unit"], origin["adjacency"]), (origin["epsilon"], origin["delta"])
    bounded = all(isinstance(word, str) for word in words) and all(map(_is_positive, numbers))
    return origin["not_private"] or bounded


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
