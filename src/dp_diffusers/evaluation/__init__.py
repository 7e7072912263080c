"""Measures of synthetic images: `evaluate` and what it returns.

Guarantees that importing this package costs no torch: names are loaded when first used. May import nothing at
the top.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.evaluation.distances import Distances
    from dp_diffusers.evaluation.evaluating import evaluate
    from dp_diffusers.evaluation.features import Features
    from dp_diffusers.evaluation.scores import Interval, Row, Scores

__all__ = ["Distances", "Features", "Interval", "Row", "Scores", "evaluate"]

_HOME = {
    "Distances": "distances",
    "evaluate": "evaluating",
    "Features": "features",
    "Interval": "scores",
    "Row": "scores",
    "Scores": "scores",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
