"""The empirical check of epsilon: we attack our own training with canaries, on public images alone.

Guarantees that an audit reads no private image and costs no budget. Importing this costs no torch. Sources:
Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846); Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.auditing.attacking import audit, audit_recipe
    from dp_diffusers.auditing.results import AuditResult

__all__ = ["AuditResult", "audit", "audit_recipe"]

_HOME = {"AuditResult": "results", "audit": "attacking", "audit_recipe": "attacking"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dp_diffusers.auditing' has no attribute {name!r}")
    return getattr(import_module(f"dp_diffusers.auditing.{_HOME[name]}"), name)
