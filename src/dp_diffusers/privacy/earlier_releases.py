"""What a base model learnt in other releases, in words: a merged model is not a public one.

Guarantee: the sentence follows from the certificate's own record of its base, so that it can be checked.
Imports the standard library only. Epsilons and deltas of adaptive releases add up (Dwork et al. 2006).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_diffusers.rounding import rounded_up_text


def earlier_releases(certificate: Mapping[str, Any]) -> str | None:
    """What the base learnt, and what that means for someone in both data sets; None for a public base."""
    origins = certificate["base_model"].get("merged_from")
    if not origins:
        return None
    bounds = "; ".join(
        f"epsilon {rounded_up_text(origin['epsilon'])} at delta {rounded_up_text(origin['delta'])} per "
        f"{origin['unit']}, adjacency {origin['adjacency']} (certificate {origin['certificate_sha256'][:16]})"
        for origin in origins
    )
    return (
        f"The base was merged from other releases: {bounds}. Someone whose images are in their data too is "
        f"protected by the sum of these epsilons and deltas and this release's{_sum(certificate, origins)}."
    )


def _sum(certificate: Mapping[str, Any], origins: list[Mapping[str, Any]]) -> str:
    """The sum in numbers, where all of them are about the same kind of unit."""
    own = (certificate["unit"], certificate["adjacency"])
    if certificate["epsilon"] is None or any((item["unit"], item["adjacency"]) != own for item in origins):
        return ""
    epsilon, delta = (
        certificate[name] + sum(item[name] for item in origins) for name in ("epsilon", "delta")
    )
    return f", epsilon {rounded_up_text(epsilon)} at delta {rounded_up_text(delta)}"
