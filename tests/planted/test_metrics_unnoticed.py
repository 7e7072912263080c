"""A figure that real images went into says so, whichever metric it is of, present or to come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dp_diffusers.evaluation import Scores, distances, evaluate
from dp_diffusers.evaluation.diversity import OF_REFERENCE
from dp_diffusers.evaluation.evaluating import TESTED
from dp_diffusers.evaluation.features import Features

SYNTHETIC = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8), np.arange(12) % 3
DARKER = SYNTHETIC[0] // 2, SYNTHETIC[1]
BRIGHT = SYNTHETIC[0] // 2 + 120, SYNTHETIC[1]
GREY = Features(name="rows", dim=8, function=lambda images: images.mean((2, 3)))
REST: dict[str, Any] = {"seeds": 2, "passes": 8, "features": GREY}
CHEAP: dict[str, Any] = {**REST, "fidelity": True}


def unnoticed() -> list[str]:
    """The property: figures that change with the reference, and do not say that they read it.

    Nothing is asked of a metric: two evaluations that differ in the reference alone are compared.
    """
    return unsaid(*(evaluate(SYNTHETIC, reference, **CHEAP) for reference in (DARKER, BRIGHT)))


def unsaid(one: Scores, other: Scores) -> list[str]:
    """Figures that differ between two evaluations, and do not say that they read real images."""
    changed = [
        name for name, value in one.to_dict().items() if name in figures() and value != other.to_dict()[name]
    ]
    assert changed  # the two references are told apart, else the comparison would see nothing
    said = "not covered by ε" in one.explain() and one.to_dict()["covered_by_epsilon"] is False
    return [name for name in changed if name not in one.read_by or not said]


def figures() -> tuple[str, ...]:
    return (*TESTED, "real", "label_fidelity", "diversity", *OF_REFERENCE, *distances.figure_names())


def planted(monkeypatch: pytest.MonkeyPatch, metric: Callable[..., dict[str, float]]) -> None:
    """Adds a metric of one figure, `brightness`, to the table."""
    monkeypatch.setattr(distances, "METRICS", {**distances.METRICS, ("brightness",): metric})


def test_guarantee_no_figure_reads_real_images_unnoticed() -> None:
    assert unnoticed() == []


def learnt_from(real: bool) -> list[str]:
    """Figures that change with the labels of what a teacher learns from, and do not say that they read it."""
    half = np.arange(12) % 2
    images = np.zeros((12, 8, 8, 1), np.uint8)
    images[half == 0, :4], images[half == 1, 4:] = 200, 200
    told = (images, half), (images, 1 - half)
    rest: dict[str, Any] = {"features": None, "seeds": 2, "passes": 1536}
    if real:
        return unsaid(*(evaluate((images, half), (images, half), real=of, **rest) for of in told))
    return unsaid(*(evaluate((images, half), of, fidelity=True, **rest) for of in told))


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_guarantee_no_teacher_reads_real_images_unnoticed(real: bool) -> None:
    assert learnt_from(real) == []


def test_real_images_to_train_on_are_said_to_be_read() -> None:
    found = evaluate(SYNTHETIC, DARKER, real=BRIGHT, **REST)
    assert {"real", "label_fidelity"} <= {*found.read_by}
    assert "read for this evaluation, not covered by ε" in found.explain()


def test_the_diversity_of_synthetic_images_alone_reads_none() -> None:
    one, other = (evaluate(SYNTHETIC, reference, **CHEAP) for reference in (DARKER, BRIGHT))
    assert one.to_dict()["diversity"] == other.to_dict()["diversity"] is not None
    assert "diversity" not in one.read_by
    assert {*OF_REFERENCE} <= {*one.read_by}


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
@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_planted_teacher_that_learns_from_behind_the_gate(
    real: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers.evaluation.held_out import HeldOut

    read = HeldOut.read

    def unwritten(held_out: HeldOut, *figures: str) -> Any:
        return read(held_out, *(name for name in figures if name not in ("real", "label_fidelity")))

    monkeypatch.setattr(HeldOut, "read", unwritten)
    assert {*learnt_from(real)} == ({"real", "label_fidelity"} if real else {"label_fidelity"})


@pytest.mark.planted
def test_planted_gate_that_writes_nothing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from dp_diffusers.evaluation.held_out import HeldOut

    monkeypatch.setattr(HeldOut, "readers", ("accuracy",))
    assert {"fid", "kid"} <= set(unnoticed())
