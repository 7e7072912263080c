"""Killed around the class histogram: whatever noise was drawn for it was paid for, in its own lane."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from crash_account import Tally, at_the_end, report

from dp_diffusers.privacy.ledger import Ledger

HISTOGRAM = "generation.labels=histogram"
STEPS = "mechanism.steps=12"
ACCOUNT = "dp_diffusers.privacy.reservation:Reservation."
INSTANTS = [
    (ACCOUNT + "charge_query", "before", 1),
    (ACCOUNT + "charge_query", "after", 1),  # paid, not drawn
    ("dp_diffusers.queries.class_histogram:noisy_counts", "after", 1),  # drawn, not kept
    ("dp_diffusers.run.folder:RunFolder.write", "after", 2),  # kept, no step yet
    (ACCOUNT + "charge", "after", 1),
]


def paid_queries(ledger: Path) -> list[str]:
    """The lanes that paid for the histogram, in order."""
    with Ledger.open(ledger) as opened:
        return [entry.content["lane"] for entry in opened.entries() if entry.kind == "query"]


def drawn_queries(folder: Path) -> list[str]:
    """The lanes that began to draw its noise, in order."""
    return (folder / "log.queries").read_text().splitlines()


@pytest.mark.slow
def test_guarantee_killed_around_the_class_histogram(trainings: Any, tiny_recipe: Path) -> None:
    folder, tally = tiny_recipe.parent, Tally()
    for instant in INSTANTS:
        code = trainings.run(tiny_recipe, STEPS, HISTOGRAM, die=instant)
        assert code == -signal.SIGKILL, (instant, code, (folder / "output").read_text()[-800:])
        tally.killed(folder, "histogram")
        drawn, paid = drawn_queries(folder), paid_queries(folder / "tiny.ledger")
        assert len(drawn) == len(set(drawn))
        assert set(drawn) <= set(paid)
    code = trainings.run(tiny_recipe, STEPS, HISTOGRAM)
    assert code == 0, (folder / "output").read_text()[-800:]
    tally.ended(folder)
    tally.report("train with a class histogram, killed around it")
    certificate = at_the_end(folder, also={"private/histogram.json"})
    asked = [entry for entry in certificate["mechanisms"] if entry["name"] == "histogram"]
    paid = paid_queries(folder / "tiny.ledger")
    assert sum(entry["steps_charged"] for entry in asked) == len(paid) == 3
    report(f"class histogram: {len(paid)} paid for, {len(drawn_queries(folder))} drawn, each in its lane")
