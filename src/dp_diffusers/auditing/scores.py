"""From scores to guesses: who is in, by the scores that say most.

Guarantees that the number of guesses does not depend on any score, as the bounds ask. May import numpy. The
rule is that of the papers of `bounds`: guess where the score is extreme, abstain elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dp_diffusers.auditing.bounds import Outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """One attack on N canaries: `values [N]`, above zero where it says "in"; `included [N]`, the truth."""

    name: str
    meaning: str
    values: np.ndarray
    included: np.ndarray

    def guesses(self, share: float) -> int:
        """How many canaries are guessed: `share` of them, at least one."""
        return max(1, round(share * len(self.values)))

    def outcome(self, share: float) -> Outcome:
        """Guesses about the `share` of canaries with the largest |value|; a NaN is guessed last."""
        guesses = self.guesses(share)
        chosen = np.argsort(-self._strength(), kind="stable")[:guesses]
        correct = int(((self.values[chosen] > 0) == self.included[chosen]).sum())
        return Outcome(canaries=len(self.values), guesses=guesses, correct=correct)

    def threshold(self, share: float) -> float:
        """The smallest |value| that is guessed."""
        return float(np.sort(self._strength())[-self.guesses(share)])

    def _strength(self) -> np.ndarray:
        strength: np.ndarray = np.nan_to_num(np.abs(self.values), nan=-1.0)
        return strength


def centred(values: np.ndarray) -> np.ndarray:
    """Values about their median: about half of the canaries are in, whoever they are."""
    around: np.ndarray = values - np.median(values)
    return around
