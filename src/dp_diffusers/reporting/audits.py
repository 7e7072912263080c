"""The result of `audit`, read from its file and held against the certificate that it is shown with.

Guarantees that an audit of another claim is refused, and that its verdict is derived again from its numbers.
May import the auditing package's results, which cost nothing. Audits read no private image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dp_diffusers.auditing.results import Attack, AuditResult
from dp_diffusers.errors import InputError, ParameterError

FILE: Final = "audit.json"
_FIELDS: Final = ("epsilon_claimed", "epsilon_lower_bound", "confidence", "canaries", "delta", "adjacency")


def read_audit(path: str | Path) -> AuditResult:
    """The result in a file, or in the folder that `audit` wrote. Raises `InputError` for anything else."""
    place = Path(path)
    place = place / FILE if place.is_dir() else place
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        attacks = tuple(Attack(**attack) for attack in document["attacks"])
        fields = {name: document[name] for name in _FIELDS}
        return AuditResult(**fields, attacks=attacks, notes=tuple(map(str, document["notes"])))
    except OSError as error:
        raise InputError(
            f"cannot read {place}: {error.strerror}", hint="`dp-diffusers audit RECIPE --out DIR` writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place} is not the result of an audit", hint="give its audit.json") from error


def require_same_claim(audit: AuditResult, certificate: Mapping[str, Any]) -> None:
    """Raises `ParameterError` unless the audit attacked what the certificate's document claims, or less.

    Less: an audit asks no side query, which the certificate's epsilon covers as well.
    """
    if certificate["not_private"]:
        raise ParameterError("a run that is not private claims nothing that an audit could attack")
    same = audit.adjacency == certificate["adjacency"] and math.isclose(audit.delta, certificate["delta"])
    if not same or audit.epsilon_claimed > certificate["epsilon"] * 1.01:
        raise ParameterError(
            f"the audit is of another claim: epsilon {audit.epsilon_claimed:.4g} at delta {audit.delta:g}, "
            f"{audit.adjacency}",
            hint="audit the recipe of this run",
        )


def audit_counts(audit: AuditResult | None) -> list[Any]:
    """Every count that is shown of an audit: its canaries are artificial."""
    if audit is None:
        return []
    counts = [(attack.canaries, attack.guesses, attack.correct) for attack in audit.attacks]
    return [audit.canaries, *(number for three in counts for number in three)]
