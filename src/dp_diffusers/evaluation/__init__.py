"""Measures of synthetic images: `evaluate` and what it returns.

Guarantees that importing this package costs no torch: names are loaded when first used. May import nothing at
the top.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.evaluation.asking import evaluate
    from dp_diffusers.evaluation.charged import ChargedScores
    from dp_diffusers.evaluation.distances import Distances
    from dp_diffusers.evaluation.diversity import Diversity
    from dp_diffusers.evaluation.features import Features
    from dp_diffusers.evaluation.fidelity import Fidelity
    from dp_diffusers.evaluation.intervals import Interval
    from dp_diffusers.evaluation.rows import Row
    from dp_diffusers.evaluation.scores import Scores

__all__ = [
    "ChargedScores",
    "Distances",
    "Diversity",
    "Features",
    "Fidelity",
    "Interval",
    "Row",
    "Scores",
    "evaluate",
]

_HOME = {
    "ChargedScores": "charged",
    "Distances": "distances",
    "Diversity": "diversity",
    "evaluate": "asking",
    "Features": "features",
    "Fidelity": "fidelity",
    "Interval": "intervals",
    "Row": "rows",
    "Scores": "scores",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
