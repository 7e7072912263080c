"""What an audit found, in numbers and in words.

Guarantees that the verdict follows from the numbers shown. May import the standard library and the
rounding of bounds. The document is the design's JSON contract; fields are only ever added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dp_diffusers.rounding import rounded_up_text


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One bound from one attack: `correct` of `guesses` guesses about `canaries` canaries were right.

    assumes: `family` (the plan's mechanism, its noise unknown) or `nothing`. confidence: of this bound alone.
    in_headline: whether it is part of the verdict; fixed before the audit ran.
    """

    name: str
    assumes: str
    canaries: int
    guesses: int
    correct: int
    epsilon_lower_bound: float
    confidence: float
    in_headline: bool


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The claim beside what attacks prove. Epsilons are at `delta`, for neighbours by `adjacency`.

    mechanism, strategy: what was attacked, as the plan's record and a strategy's name; None if not recorded.
    """

    epsilon_claimed: float
    epsilon_lower_bound: float
    confidence: float
    canaries: int
    delta: float
    adjacency: str
    attacks: tuple[Attack, ...]
    notes: tuple[str, ...] = ()
    picture: Path | None = None
    mechanism: Mapping[str, Any] | None = None
    strategy: str | None = None

    @property
    def refuted(self) -> bool:
        """Whether the lower bound is above the claim."""
        return self.epsilon_lower_bound > self.epsilon_claimed

    @property
    def assumes(self) -> str:
        """What the lower bound takes for granted: that of the attack which gave it, the least if several."""
        best = [each for each in self.attacks if each.in_headline]
        best = [each for each in best if each.epsilon_lower_bound >= self.epsilon_lower_bound]
        return "nothing" if not best or any(each.assumes == "nothing" for each in best) else "family"

    @property
    def condition(self) -> str:
        """The same in words, to stand behind the number."""
        return "" if self.assumes == "nothing" else ", if the noise alone may be wrong"

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        picture = None if self.picture is None else str(self.picture)
        return {**asdict(self), "assumes": self.assumes, "refuted": self.refuted, "picture": picture}

    def explain(self) -> str:
        """A few lines for the screen."""
        verdict = (
            "THE CLAIM DOES NOT HOLD"
            if self.refuted
            else "the claim stands: no attack got more than it allows"
        )
        delta = rounded_up_text(self.delta)
        lines = [
            f"claimed  epsilon <= {rounded_up_text(self.epsilon_claimed)} (delta {delta}, {self.adjacency})",
            f"attacked epsilon >= {self.epsilon_lower_bound:.4g} ({100 * self.confidence:g} % confidence, "
            f"{self.canaries} canaries{self.condition})",
            verdict,
            "",
            *(_line(attack) for attack in self.attacks),
            *self.notes,
        ]
        return "\n".join([*lines, *([f"picture: {self.picture}"] if self.picture else [])])


def _line(attack: Attack) -> str:
    assumed = "noise unknown" if attack.assumes == "family" else "nothing assumed"
    beside = "" if attack.in_headline else ", beside the verdict"
    return (
        f"  {attack.name} attack: {attack.correct} of {attack.guesses} guesses right, "
        f"epsilon >= {attack.epsilon_lower_bound:.3g} ({assumed}, {100 * attack.confidence:g} %{beside})"
    )
