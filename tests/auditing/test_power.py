"""What whole audits see and what they do not claim: `benchmarks/audit_power.py`, fewer times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loop_support import cheap_trainings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import audit_power

REPEATS, CANARIES = 5, 2000
ROUNDS = 4
MANY = (
    4000  # for a small epsilon: with fewer, a mean of five bounds is now and then half of what it should be
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "canaries", "least"), [(1.0, MANY, 0.3), (4.0, CANARIES, 1.4)])
def test_guarantee_a_right_training_is_not_refuted_and_much_of_its_epsilon_is_seen(
    epsilon: float, canaries: int, least: float
) -> None:
    means: list[float] = []
    # by their spread, 1 in 25 means of five right audits of epsilon 1 is below `least`; of twenty, 1 in 5,000
    while len(means) < ROUNDS and not (means and sum(means) / len(means) > least):
        found = audit_power.bounds_of(epsilon, "none", REPEATS, canaries)
        assert found["refuted"] == 0
        means.append(found["headline"]["mean"])
    assert sum(means) / len(means) > least


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_planted_clipping_of_each_draw_is_seen_every_time(epsilon: float) -> None:
    assert audit_power.bounds_of(epsilon, "each draw clipped", REPEATS, CANARIES)["refuted"] == REPEATS
