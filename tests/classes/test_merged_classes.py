"""A merged model calls a class what the training that it learnt from called it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp_diffusers as dpd
from dp_diffusers.classes.merged_classes import name_classes
from dp_diffusers.diffusion.loading import load_base
from loop_support import cheap_trainings

BASE = ["glyph_0", "glyph_1", "glyph_2", "glyph_3"]


def _classes(labels: list[int], names: list[str] | None, *, declared: bool = True) -> dict[str, Any]:
    return {"labels": labels, "names": names, "declared": declared}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (_classes([3, 1], ["a", "b"]), ["glyph_0", "b", "glyph_2", "a"]),
        (_classes([0, 1], ["glyph_1", "glyph_0"]), ["glyph_1", "glyph_0", "glyph_2", "glyph_3"]),
        (_classes([3], ["glyph_0"]), BASE),
        (_classes([0, 1, 2, 3], BASE, declared=False), BASE),
        (_classes([0], None), BASE),
        (None, BASE),
    ],
    ids=[
        "two of four",
        "two that change places",
        "the name of another",
        "undeclared",
        "no names",
        "no classes",
    ],
)
@pytest.mark.parametrize("kept", ["sidecar", "index"])
def test_declared_classes_are_renamed(
    tmp_path: Path, classes: dict[str, Any] | None, expected: list[str], kept: str
) -> None:
    numbered = {str(number): name for number, name in enumerate(BASE)}
    index = {"_class_name": "DiTPipeline"} | ({"id2label": numbered} if kept == "index" else {})
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    if kept == "sidecar":
        (tmp_path / "classes.json").write_text(json.dumps(BASE))
    name_classes(tmp_path, classes)
    found = json.loads((tmp_path / "model_index.json").read_text())
    names = list(found.get("id2label", {}).values())
    if kept == "sidecar":
        assert names == []
        names = json.loads((tmp_path / "classes.json").read_text())
    assert names == expected
    assert found["_class_name"] == "DiTPipeline"


def test_a_model_without_names_gets_none(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    name_classes(tmp_path, _classes([0], ["a"]))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model_index.json", "{}")]


@pytest.mark.slow
def test_a_second_training_names_what_the_first_learnt(
    tiny_base: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_trainings(monkeypatch.setattr)
    base = tiny_base()
    first, _, third = base.class_names
    base.save(tmp_path / "base")
    data = dpd.PrivateImages(
        images=np.zeros((20, 8, 8, 1), np.uint8),
        labels=np.arange(20) % 2,
        class_names=("well", "ill"),
        owner=np.arange(20),
        unit_count=20,
    )
    plan = dpd.Plan.calibrate(dpd.Budget(1.0, 1e-4), dpd.DPSGD(steps=1, expected_units=50, population=1000))
    dpd.finetune(
        tmp_path / "base",
        data,
        plan,
        out=tmp_path / "run",
        ledger=tmp_path / "x.ledger",
        base_classes=[third, first],
    )
    merged = dpd.merge(tmp_path / "run", tmp_path / "merged")
    assert load_base(merged).class_names == ("ill", "class 1", "well")
