"""What a certificate says of its ledger, held against the release that it is of.

Guarantee: a total is accepted only below its cap, by a rule of ledgers, with its delta, and as no less than
what this release costs alone at that delta; a cap only at a delta below 1 / population.
Imports the accountant, never torch. Source: the contract of the certificate; `spending.total`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard

from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.budget import promises_nothing
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.events import Record

ROUNDED_UP: Final = 1.01  # how far a claim may lie above the number that it is of
_RULES: Final = ("pld", "filter", "sum")  # by which `spending.total` adds up runs that spent something


def problems_of_ledger(certificate: Certificate, records: Sequence[Record]) -> Iterator[str]:
    """Everything in `ledger` that no ledger with this release in it can have said."""
    spent, cap, head = (certificate.ledger.get(name) for name in ("spent_epsilon", "cap_epsilon", "head"))
    if not is_number(spent) or not (cap is None or is_number(cap)):
        yield "the ledger's numbers are missing"
    elif spent < 0 or certificate.ledger.get("rule") == "none":
        yield f"the ledger spent epsilon {spent:.6g}, and this release is in it"
    elif cap is not None and spent > cap * (1 + 1e-9):
        yield f"the ledger spent epsilon {spent:.6g}, above its cap of {cap:g}"
    else:
        yield from _added_up(certificate, spent, cap)
        yield from _at_its_delta(certificate, spent, records)
        yield from _of_the_cap(certificate.ledger, [getattr(record, "population", 1) for record in records])
    if not is_sha256(head):
        yield "the ledger's head is missing"


def _added_up(certificate: Certificate, spent: float, cap: float | None) -> Iterator[str]:
    """By a rule that ledgers have; without a cap by the sum, which each run is in at its own delta."""
    rule, epsilon = certificate.ledger.get("rule"), certificate.epsilon
    if rule not in _RULES or (cap is None and rule != "sum"):
        yield f"the ledger's rule is {rule!r}: expected {'sum' if cap is None else ', '.join(_RULES)}"
    elif rule == "sum" and is_number(epsilon) and spent * ROUNDED_UP < epsilon:
        yield f"the ledger spent epsilon {spent:.6g} as a sum, and this release alone {epsilon:.6g}"


def _at_its_delta(certificate: Certificate, spent: float, records: Sequence[Record]) -> Iterator[str]:
    """By any rule a total bounds each run that is in it, at the total's own delta."""
    delta = certificate.ledger.get("spent_delta")
    if not is_number(delta) or not delta > 0:
        yield f"the ledger's delta is {delta!r}: expected a number above 0"
    elif delta < 1:
        alone = _alone(certificate, records, delta)
        if spent * ROUNDED_UP < alone:
            yield (
                f"the ledger spent epsilon {spent:.6g} at delta {delta:g}, "
                f"and this release alone {alone:.6g} at that delta"
            )


def _of_the_cap(ledger: Mapping[str, Any], populations: Sequence[int]) -> Iterator[str]:
    """A cap limits nothing at a delta of 1 / population or more; a total under it is at its delta.

    Without a cap, the total's delta is a sum that nothing bounds, and no limit is told by it.
    """
    if ledger["cap_epsilon"] is None:
        if ledger.get("cap_delta") is not None:
            yield f"the ledger has no cap, and a cap's delta of {ledger['cap_delta']!r}"
        return
    population = max(populations, default=1)
    delta, spent = ledger.get("cap_delta"), ledger.get("spent_delta")
    if not is_number(delta) or not delta > 0:
        yield "the delta of the ledger's cap is missing"
    elif delta != spent:
        yield f"the ledger's cap is at delta {delta}, and its total at {spent}"
    elif promises_nothing(delta, population):
        yield (
            f"the cap of the ledger is at delta {delta:g}, not below 1 / population = {1 / population:.3g}: "
            "it limits nothing"
        )


def _alone(certificate: Certificate, records: Sequence[Record], delta: float) -> float:
    if delta == certificate.delta and is_number(certificate.epsilon):
        return certificate.epsilon  # which is held against the mechanisms where epsilon is computed again
    return accountant.epsilon(records, delta, str(certificate.adjacency))


def is_number(value: Any) -> TypeGuard[int | float]:
    """A finite int or float; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_sha256(value: Any) -> bool:
    """A digest as it is written: 64 digits and small letters of base 16."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
