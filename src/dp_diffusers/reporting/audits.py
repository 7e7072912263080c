"""The result of `audit`, read from its file and held against the certificate that it is shown with.

Guarantees that an audit of another training or of another claim is refused, and that the bound in the
verdict is that of its own attacks. May import privacy/ and the auditing package's results. Audits read no
private image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from dp_diffusers.auditing.results import Attack, AuditResult
from dp_diffusers.errors import InputError, ParameterError
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.events import GaussianMechanism, training_record
from dp_diffusers.rounding import rounded_up_text

FILE: Final = "audit.json"
ATTACKED: Final = "dpsgd"  # the mechanism whose gradients an audit attacks
CLOSE: Final = 0.01  # of epsilon
AGAIN: Final = "run `dp-diffusers audit RECIPE` again, with this run's recipe"
_NUMBERS: Final = ("epsilon_claimed", "epsilon_lower_bound", "confidence", "delta")
_OF_ATTACK: Final = {"name": str, "assumes": str, "in_headline": bool}
_COUNTS: Final = ("canaries", "guesses", "correct")


def read_audit(path: str | Path) -> AuditResult:
    """The result in a file, or in the folder that `audit` wrote.

    Raises `InputError` for anything else, for one without attacks, one whose bound is not that of its
    attacks, and one of an older version, which does not say what was attacked.
    """
    place = Path(path)
    place = place / FILE if place.is_dir() else place
    try:
        audit = _result(json.loads(place.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"cannot read {place}: {error.strerror}", hint="`dp-diffusers audit RECIPE --out DIR` writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place} is not the result of an audit", hint="give its audit.json") from error
    _require_own_bound(audit, place)
    if audit.mechanism is None or audit.strategy is None:
        raise InputError(f"{place} is of an older version and does not say what was attacked", hint=AGAIN)
    return audit


def require_same_training(
    audit: AuditResult, certificate: Mapping[str, Any], strategy: str | None = None
) -> None:
    """Raises `ParameterError` unless the audit attacked the training that the certificate's document lists.

    Its claim is what the steps cost that were planned: an audit asks no side query, which the certificate's
    epsilon covers as well. strategy: what the run trained, by name, where that is known.
    """
    if certificate["not_private"]:
        raise ParameterError("a run that is not private claims nothing that an audit could attack")
    same = audit.adjacency == certificate["adjacency"] and math.isclose(audit.delta, certificate["delta"])
    if not same or audit.epsilon_claimed > certificate["epsilon"] * (1 + CLOSE):
        raise _other_claim(audit)
    planned = _planned(certificate)
    attacked = {**(audit.mechanism or {}), "strategy": audit.strategy}
    expected = {**planned.to_dict(), "strategy": audit.strategy if strategy is None else strategy}
    for name, value in expected.items():
        if attacked.get(name) != value:
            raise ParameterError(
                f"the audit attacked another training: {name} {attacked.get(name)}, this run has {value}",
                hint=AGAIN,
            )
    alone = accountant.epsilon([planned], certificate["delta"], certificate["adjacency"])
    if not math.isclose(audit.epsilon_claimed, alone, rel_tol=CLOSE):
        raise _other_claim(audit)


def audit_counts(audit: AuditResult | None) -> list[Any]:
    """Every count that is shown of an audit: its canaries are artificial."""
    if audit is None:
        return []
    counts = [(attack.canaries, attack.guesses, attack.correct) for attack in audit.attacks]
    return [audit.canaries, *(number for three in counts for number in three)]


def _planned(certificate: Mapping[str, Any]) -> GaussianMechanism:
    for entry in certificate["mechanisms"]:
        if entry["name"] == ATTACKED:
            return training_record({**entry, "steps": entry["steps_planned"]})
    raise ParameterError("an audit attacks gradients, and this run has none", hint="leave --audit out")


def _other_claim(audit: AuditResult) -> ParameterError:
    return ParameterError(
        f"the audit is of another claim: epsilon {rounded_up_text(audit.epsilon_claimed)} at delta "
        f"{audit.delta:g}, {audit.adjacency}",
        hint=AGAIN,
    )


def _result(document: Any) -> AuditResult:
    """Raises `KeyError`, `TypeError` or `ValueError` for what is no audit; ignores what it does not know."""
    mechanism, strategy = _of_kind(document, dict).get("mechanism"), document.get("strategy")
    numbers: dict[str, Any] = {name: _number(document[name]) for name in _NUMBERS}
    return AuditResult(
        **numbers,
        canaries=_count(document["canaries"]),
        adjacency=_of_kind(document["adjacency"], str),
        attacks=tuple(map(_attack, _of_kind(document["attacks"], list))),
        notes=tuple(_of_kind(note, str) for note in _of_kind(document["notes"], list)),
        mechanism=None if mechanism is None else _of_kind(mechanism, dict),
        strategy=None if strategy is None else _of_kind(strategy, str),
    )


def _attack(document: Mapping[str, Any]) -> Attack:
    known = {field.name: document[field.name] for field in fields(Attack)}
    for name, value in known.items():
        _number(value) if name not in _OF_ATTACK else _of_kind(value, _OF_ATTACK[name])
    attack = Attack(**known | {name: _count(known[name]) for name in _COUNTS})
    if not attack.correct <= attack.guesses <= attack.canaries:
        raise ValueError("more right guesses than guesses, or more guesses than canaries")
    return attack


def _of_kind(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"expected a count, got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise TypeError(f"expected a number from 0, got {value!r}")
    return value


def _require_own_bound(audit: AuditResult, place: Path) -> None:
    """Raises `InputError` unless the bound is the best of the attacks that decide the verdict."""
    found = [attack.epsilon_lower_bound for attack in audit.attacks if attack.in_headline]
    if not found:
        raise InputError(f"{place} holds no attack that decides anything", hint=AGAIN)
    if audit.epsilon_lower_bound != max(found):
        raise InputError(
            f"{place} says epsilon_lower_bound {audit.epsilon_lower_bound:g}, its attacks give "
            f"{max(found):g}",
            hint=AGAIN,
        )
