"""Differentially private fine-tuning of diffusion models.

Guarantees that importing costs no torch and no numpy: each public name is loaded when first used (PEP 562).
May import nothing at the top. A public model and private images in; an adapter, images, a certificate out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers import errors
    from dp_diffusers.auditing import audit
    from dp_diffusers.copy_check import near_copies
    from dp_diffusers.data.private_images import PrivateImages
    from dp_diffusers.evaluation import Scores, evaluate
    from dp_diffusers.evolution.settings import EvolutionSettings
    from dp_diffusers.finetuning import finetune
    from dp_diffusers.mechanisms.dpsgd import DPSGD
    from dp_diffusers.mechanisms.evolution import PE
    from dp_diffusers.merging import merge
    from dp_diffusers.plan import Plan
    from dp_diffusers.privacy.budget import Budget
    from dp_diffusers.privacy.certificate import Certificate
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.recipe import GenerationSettings, RuntimeSettings, TrainingSettings
    from dp_diffusers.release import Release
    from dp_diffusers.reporting import Report, report

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 (in the order of `sorted`)
    "Budget",
    "Certificate",
    "DPSGD",
    "EvolutionSettings",
    "GenerationSettings",
    "Ledger",
    "PE",
    "Plan",
    "PrivateImages",
    "Release",
    "Report",
    "RuntimeSettings",
    "Scores",
    "TrainingSettings",
    "audit",
    "errors",
    "evaluate",
    "finetune",
    "generate",
    "merge",
    "near_copies",
    "report",
]

_HOME = {
    "Budget": "dp_diffusers.privacy.budget",
    "Certificate": "dp_diffusers.privacy.certificate",
    "DPSGD": "dp_diffusers.mechanisms.dpsgd",
    "EvolutionSettings": "dp_diffusers.evolution.settings",
    "GenerationSettings": "dp_diffusers.recipe",
    "Ledger": "dp_diffusers.privacy.ledger",
    "PE": "dp_diffusers.mechanisms.evolution",
    "Plan": "dp_diffusers.plan",
    "PrivateImages": "dp_diffusers.data.private_images",
    "Release": "dp_diffusers.release",
    "Report": "dp_diffusers.reporting",
    "RuntimeSettings": "dp_diffusers.recipe",
    "Scores": "dp_diffusers.evaluation",
    "TrainingSettings": "dp_diffusers.recipe",
    "audit": "dp_diffusers.auditing",
    "evaluate": "dp_diffusers.evaluation",
    "finetune": "dp_diffusers.finetuning",
    "generate": "dp_diffusers.generating",
    "merge": "dp_diffusers.merging",
    "near_copies": "dp_diffusers.copy_check",
    "report": "dp_diffusers.reporting",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("dp_diffusers.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'dp_diffusers' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
