"""The cap of a ledger as a certificate tells it: epsilon and delta, never the one without the other.

Guarantees that a cap is not named without its delta, or without saying that it is not stated. Imports the
standard library only. Under a cap a ledger's total is at the cap's own delta, by every rule: certificates
from before `cap_delta` state it as `spent_delta`, and older ones not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_diffusers.rounding import rounded_up_text


def cap_delta_of(ledger: Mapping[str, Any]) -> float | None:
    """The delta of the cap in a certificate's `ledger`; None without a cap, and where none is stated."""
    if ledger["cap_epsilon"] is None:
        return None
    delta: float | None = ledger.get("cap_delta", ledger.get("spent_delta"))
    return delta


def epsilon_at(epsilon: str, delta: float | None) -> str:
    """Both as words; `delta` None: issued before it was stated."""
    return f"epsilon {epsilon} at " + (
        "a delta that is not stated" if delta is None else f"delta {rounded_up_text(delta)}"
    )


def cap_in_words(ledger: Mapping[str, Any]) -> str | None:
    """`epsilon 7 at delta 0.0001` of a certificate's `ledger`; None without a cap."""
    cap = ledger["cap_epsilon"]
    return None if cap is None else epsilon_at(f"{cap:g}", cap_delta_of(ledger))
