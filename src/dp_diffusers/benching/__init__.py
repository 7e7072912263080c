"""What privacy costs in time and memory: steps of this engine and of others beside the plain step.

Guarantees that importing this package costs no torch: `bench` is loaded when first used. May import nothing
at the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.benching.running import bench

__all__ = ["bench"]


def __getattr__(name: str) -> Any:
    if name != "bench":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dp_diffusers.benching.running import bench

    return bench
