"""What a run spent, from its first step to its last, out of the numbers that its certificate lists.

Guarantees that nothing but the certificate is read: the curve is computed again from its mechanisms, each
point rounded up to the next computed one. Imports privacy/ and the standard library. It says how much is
spent by the steps so far; a run that was stopped there would count as `privacy/spending.py` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from dp_diffusers.privacy.calibration import prefix_table
from dp_diffusers.privacy.cap_words import cap_delta_of
from dp_diffusers.privacy.events import SIDE_QUERIES, record_from_dict

SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the steps, for a table


@dataclass(frozen=True, kw_only=True)
class Spending:
    """epsilons: after shares (0 to 1) of the steps, both rising; the first is that of the side queries.

    delta: of `epsilon` and `epsilons`. spent: of the whole ledger when the certificate was first issued, this
    run included, at `spent_delta`; cap: None without, at `cap_delta`. Their deltas are None where not stated.
    """

    steps: int
    shares: tuple[float, ...]
    epsilons: tuple[float, ...]
    epsilon: float
    delta: float
    spent: float
    spent_delta: float | None
    cap: float | None
    cap_delta: float | None

    def after(self, share: float) -> float:
        """Epsilon after a share of the steps, or a little more than that."""
        return next(value for known, value in zip(self.shares, self.epsilons) if known >= share - 1e-12)

    @property
    def rows(self) -> list[tuple[float, float]]:
        """A few shares of the steps, each with its epsilon."""
        return [(share, self.after(share)) for share in SHARES]

    @property
    def of_the_cap(self) -> float | None:
        """What the ledger stood at as a share of its cap; None without a cap."""
        return None if self.cap is None else min(1.0, self.spent / self.cap)

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def spending_of(certificate: Mapping[str, Any]) -> Spending | None:
    """The spending that a certificate's document tells; None for a run that is not private."""
    if certificate["not_private"]:
        return None
    records = [
        record_from_dict({**entry, "steps": entry["steps_charged"]}) for entry in certificate["mechanisms"]
    ]
    trained: Any = next(record for record in records if record.name not in SIDE_QUERIES)
    queries = [record for record in records if record.name in SIDE_QUERIES]
    epsilon, ledger = float(certificate["epsilon"]), certificate["ledger"]
    table = prefix_table(trained, certificate["delta"], certificate["adjacency"], epsilon, queries=queries)
    return Spending(
        steps=trained.steps,
        shares=(0.0, *(count / trained.steps for count in table.steps)),
        epsilons=(table.after(0), *table.epsilons),
        epsilon=epsilon,
        delta=float(certificate["delta"]),
        spent=float(ledger["spent_epsilon"]),
        spent_delta=ledger.get("spent_delta"),
        cap=ledger["cap_epsilon"],
        cap_delta=cap_delta_of(ledger),
    )
