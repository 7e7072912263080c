"""A figure that real images went into says so, whichever metric it is of, present or to come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dp_diffusers.evaluation import distances, evaluate
from dp_diffusers.evaluation.features import Features

SYNTHETIC = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8), np.arange(12) % 3
DARKER = SYNTHETIC[0] // 2, SYNTHETIC[1]
BRIGHT = SYNTHETIC[0] // 2 + 120, SYNTHETIC[1]
GREY = Features(name="rows", dim=8, function=lambda images: images.mean((2, 3)))


def unnoticed() -> list[str]:
    """The property: figures that change with the reference, and do not say that they read it.

    Nothing is asked of a metric: two evaluations that differ in the reference alone are compared.
    """
    one, other = (
        evaluate(SYNTHETIC, reference, features=GREY, seeds=2, passes=8) for reference in (DARKER, BRIGHT)
    )
    changed = [
        name for name, value in one.to_dict().items() if name in figures() and value != other.to_dict()[name]
    ]
    assert changed  # the two references are told apart, else the comparison would see nothing
    said = "not covered by ε" in one.explain() and one.to_dict()["covered_by_epsilon"] is False
    return [name for name in changed if name not in one.read_by or not said]


def figures() -> tuple[str, ...]:
    return ("accuracy", *distances.figure_names())


def planted(monkeypatch: pytest.MonkeyPatch, metric: Callable[..., dict[str, float]]) -> None:
    """Adds a metric of one figure, `brightness`, to the table."""
    monkeypatch.setattr(distances, "METRICS", {**distances.METRICS, ("brightness",): metric})


def test_guarantee_no_figure_reads_real_images_unnoticed() -> None:
    assert unnoticed() == []


def test_a_new_metric_that_keeps_to_the_gate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_reading(synthetic: Any, real: Any, progress: Any) -> dict[str, float]:
        return {"brightness": float(real.embedded(synthetic.features, progress).mean.mean())}

    planted(monkeypatch, open_reading)
    assert unnoticed() == []
    assert "brightness" in evaluate(SYNTHETIC, BRIGHT, features=GREY, seeds=2, passes=8).read_by


def test_a_metric_of_synthetic_images_alone_is_not_said_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda synthetic, *_: {"brightness": float(synthetic.mean.mean())})
    assert unnoticed() == []
    assert "brightness" not in evaluate(SYNTHETIC, BRIGHT, features=GREY, seeds=2, passes=8).read_by


@pytest.mark.planted
def test_planted_metric_that_reads_private_images_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the pixels from behind the gate, as code does that opens the files itself."""

    def behind_the_gate(_: Any, real: Any, __: Any) -> dict[str, float]:
        return {"brightness": float(real._held_out._images.images.mean())}

    planted(monkeypatch, behind_the_gate)
    assert unnoticed() == ["brightness"]


@pytest.mark.planted
def test_planted_gate_that_writes_nothing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from dp_diffusers.evaluation.held_out import HeldOut

    monkeypatch.setattr(HeldOut, "readers", ("accuracy",))
    assert {"fid", "kid"} <= set(unnoticed())
