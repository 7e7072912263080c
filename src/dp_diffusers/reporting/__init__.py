"""Pages for people: a release at a glance, and several beside each other.

Guarantees that importing this package costs nothing: names are loaded when first used. May import nothing at
the top.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.reporting.comparing import Comparison
    from dp_diffusers.reporting.facts import Report
    from dp_diffusers.reporting.writing import report

__all__ = ["Comparison", "Report", "report"]

_HOME = {"Comparison": "comparing", "Report": "facts", "report": "writing"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
