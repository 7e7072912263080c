"""Studies: one recipe in several variants and seeds, scored alike, in one table.

Guarantees that importing this package costs no torch: `study` is loaded when first used. May import nothing
at the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.studying.runs import study

__all__ = ["study"]


def __getattr__(name: str) -> Any:
    if name != "study":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dp_diffusers.studying.runs import study

    return study
