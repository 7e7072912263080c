"""What `init` writes of mechanism, strategy and training, where measurements speak against a default.

Guarantees values that fit the base as far as the names of its files tell: adapters on all layers for models
that `pretrain` makes, which were measured (docs/guides/choosing.md), the defaults for all others. Opens no
file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

PUBLIC: Final = "runs/public"
"""The base of `init` where none is named: what `pretrain` is told to make."""
# Most units' gradients are longer than this, and then the noise is the smallest beside them that it can be.
CLIP_NORM: Final = 0.01


def first_values(base: str, *, has_labels: bool) -> dict[str, dict[str, Any]]:
    """Keys by section, without the population."""
    sections: dict[str, dict[str, Any]] = {
        "mechanism": {"clip_norm": CLIP_NORM},
        "training": {"noise_draws": 1},
    }
    folder = Path(base)
    to_be_made = base == PUBLIC and not folder.exists()
    names_classes = (folder / "classes.json").is_file()
    if to_be_made or names_classes or (folder / "pretraining.json").is_file():
        also = ["bias", "embedding"] if has_labels and (to_be_made or names_classes) else ["bias"]
        sections["strategy"] = {"rank": 8, "targets": "all", "freeze_a": True, "also": also}
        sections["training"] |= {"learning_rate": 3.0e-3, "schedule": "linear"}
    return sections
