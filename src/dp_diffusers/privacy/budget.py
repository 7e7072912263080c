"""What a run may spend, of whom, and what all runs on one data set may spend together.

Guarantee: a `Budget` that exists is in range; nothing later has to check its numbers again. Imports the
standard library only, so that a recipe can be validated without numpy. Source: the parameters of
(epsilon, delta)-differential privacy in Dwork and Roth 2014, and the questions of NIST SP 800-226.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dp_diffusers.errors import ParameterError, unknown_name, within

EPSILON_RANGE: Final = (0.01, 100.0)
SMALLEST_DELTA: Final = 1e-15  # below it, double precision and the accountant's truncation give epsilon = inf
CAP_GIVEN: Final = "cap_given"  # in documents, where a cap that was asked for is like the budget
ADJACENCIES: Final = ("add_remove", "zero_out", "replace")


def promises_nothing(delta: float, population: float) -> bool:
    """Whether delta >= 1 / population: publishing one unit's images outright would then count as private."""
    return delta * population >= 1.0


class _SameAsBudget:
    """Marks a cap that was not given: the cap is then the budget itself."""

    def __repr__(self) -> str:
        return "SAME_AS_BUDGET"


SAME_AS_BUDGET: Final = _SameAsBudget()


@dataclass(frozen=True)
class Cap:
    """What all runs recorded in one ledger may spend together.

    Raises `ParameterError` for epsilon outside [0.01, 100] or delta outside (1e-15, 1).
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _check_epsilon_delta("cap.", self.epsilon, self.delta)
        object.__setattr__(self, "epsilon", float(self.epsilon))
        object.__setattr__(self, "delta", float(self.delta))

    def to_dict(self) -> dict[str, float]:
        """`{epsilon, delta}`, for JSON."""
        return {"epsilon": self.epsilon, "delta": self.delta}


@dataclass(frozen=True, init=False)
class Budget:
    """What one run may spend: (epsilon, delta) for one `unit` under `adjacency`.

    `unit` names whose presence is hidden: "image", or the column that identifies a person. `adjacency` is
    "add_remove" (data sets that differ in one unit's presence), "zero_out" (one unit's images replaced by
    nothing, the number of units public) or "replace" (one unit's images replaced by any others, the number
    of units public). The first two have the same privacy loss here; "replace" promises more, so that the
    same noise costs about twice the epsilon. `cap` limits all runs on the ledger: by default the budget
    itself, `None` records without a limit. The first run of a ledger fixes it; a later one that is given none
    comes under the ledger's.
    Raises `ParameterError` for epsilon outside [0.01, 100], delta outside (1e-15, 1), an unknown adjacency.
    """

    epsilon: float
    delta: float
    unit: str
    adjacency: str
    cap: Cap | None
    asks_for_no_cap: bool = field(compare=False, repr=False)
    """Whether none was given, so that the ledger's holds."""

    def __init__(
        self,
        epsilon: float,
        delta: float = 1e-5,
        unit: str = "image",
        adjacency: str = "add_remove",
        cap: Cap | Mapping[str, float] | _SameAsBudget | None = SAME_AS_BUDGET,
    ) -> None:
        _check_epsilon_delta("", epsilon, delta)
        _check_unit(unit)
        _check_adjacency(adjacency)
        fields: dict[str, Any] = {"epsilon": float(epsilon), "delta": float(delta), "unit": unit}
        fields |= {"adjacency": adjacency, "cap": _resolve_cap(cap, epsilon, delta)}
        fields |= {"asks_for_no_cap": isinstance(cap, _SameAsBudget)}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; `from_dict` reads it back."""
        cap = None if self.cap is None else self.cap.to_dict()
        own = {"epsilon": self.epsilon, "delta": self.delta}
        document = {**own, "unit": self.unit, "adjacency": self.adjacency, "cap": cap}
        # a cap like the budget reads as none that was given: that it was is said where it was
        return {**document, CAP_GIVEN: True} if cap == own and not self.asks_for_no_cap else document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Budget:
        """Reads what `to_dict` wrote. Raises `ParameterError` for anything else."""
        try:
            given = {name: document[name] for name in ("epsilon", "delta", "unit", "adjacency", "cap")}
            own = {name: given[name] for name in ("epsilon", "delta")}
            if given["cap"] == own and not document.get(CAP_GIVEN, False):
                given["cap"] = SAME_AS_BUDGET
            return cls(**given)
        except (KeyError, TypeError) as error:
            raise ParameterError(f"not a budget: {error}") from error


def _check_epsilon_delta(prefix: str, epsilon: float, delta: float) -> None:
    hint = "epsilon between 1 and 10 is usual for images; smaller is more private"
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParameterError(f"expected {prefix}{name} to be a number, got {value!r}", hint=hint)
    within(*EPSILON_RANGE, hint=hint, **{f"{prefix}epsilon": epsilon})
    if not SMALLEST_DELTA < delta < 1.0:
        raise ParameterError(
            f"expected {prefix}delta in (1e-15, 1), got {delta}",
            hint="delta is the chance that the epsilon bound does not hold: below 1 / population",
        )


_JOINERS: Final = "\u200c\u200d"  # part of how Persian, Hindi and others are written


def is_visible(text: str) -> bool:
    """Whether a text is one line of characters that are seen, spaces of any kind, and what joins letters."""
    return all(each.isprintable() or each in _JOINERS or unicodedata.category(each) == "Zs" for each in text)


def _check_unit(unit: str) -> None:
    if not isinstance(unit, str) or not unit.strip():
        raise ParameterError(
            f"expected unit to name whose privacy is protected, got {unit!r}",
            hint="'image', or the column that says whose image it is, such as 'patient_id'",
        )
    if not is_visible(unit):  # it stands in certificates: a line of its own there could say anything
        raise ParameterError(
            f"expected unit without line breaks and characters that nobody sees, got {unit!r}",
            hint="rename the column",
        )


def _check_adjacency(adjacency: str) -> None:
    if adjacency not in ADJACENCIES:
        raise unknown_name("adjacency", str(adjacency), ADJACENCIES)


def _resolve_cap(
    cap: Cap | Mapping[str, float] | _SameAsBudget | None, epsilon: float, delta: float
) -> Cap | None:
    if isinstance(cap, _SameAsBudget):
        return Cap(epsilon, delta)
    if cap is None or isinstance(cap, Cap):
        return cap
    if not isinstance(cap, Mapping) or set(cap) != {"epsilon", "delta"}:
        raise ParameterError(
            f"expected cap to be null or {{epsilon, delta}}, got {cap!r}",
            hint='Cap(3.0, 1e-5) or {"epsilon": 3.0, "delta": 1e-5}',
        )
    return Cap(cap["epsilon"], cap["delta"])
