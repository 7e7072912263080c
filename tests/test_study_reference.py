"""The reference of a study: read as the runs read their images, and refused before a run is paid for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import png, write_parquet
from dp_diffusers.errors import DataError, RunFolderError
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.recipe import Recipe
from dp_diffusers.recipe.study import load_study
from dp_diffusers.studying import kept, pictures, runs, study
from dp_diffusers.studying.contents import sha256_of_images
from source_support import Row, on_a_hub, serve

NAMES = ("class 0", "class 1", "class 2")
LABELS = np.arange(9) % 3


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[LabelledImages]:
    """The references that runs were scored on; nothing is trained, nothing learns from them."""
    seen: list[LabelledImages] = []
    facts = {"epsilon": 5.0, "delta": 1e-3, "steps": 3, "trainable_parameters": 9, "expected_rows_at_most": 1}
    images: Any = SimpleNamespace(images=np.zeros((9, 8, 8, 1), np.uint8))
    monkeypatch.setattr(runs, "_trained", lambda run, out: runs.Made(facts=facts, images=images, base="base"))
    monkeypatch.setattr(Recipe, "plan", lambda recipe: None)
    monkeypatch.setattr(kept, "sha256_of_base", lambda path: "base")
    monkeypatch.setattr(pictures, "draw", lambda *_: [])

    def evaluated(_: Any, reference: LabelledImages, **__: Any) -> Any:
        seen.append(reference)
        schedule = {"classifier": "cnn-32-64-128", "passes": 1}
        return SimpleNamespace(accuracy=SimpleNamespace(mean=80.0), distances=(), **schedule)

    monkeypatch.setattr(runs, "evaluate", evaluated)
    return seen


@pytest.fixture
def study_of(tiny_recipe: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of one run with this reference and these settings of `data`."""

    def make(reference: Path, **data: Any) -> Path:
        recipe = yaml.safe_load(tiny_recipe.read_text())
        recipe["data"] |= data
        del recipe["budget"]["ledger"]
        document = {"recipe": recipe, "seeds": [0], "public_model": False}
        document["evaluate"] = {"reference": str(reference), "seeds": 2, "passes": 1}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return make


def _wide(place: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 16, 1), dtype=np.uint8)
    write_parquet(pixels, LABELS, NAMES, place)
    return place


def test_a_reference_is_padded_where_the_runs_images_were(
    study_of: Callable[..., Path], scored: list[LabelledImages], tmp_path: Path
) -> None:
    place = _wide(tmp_path / "test.parquet")
    study(load_study(study_of(place, resize="fit")), tmp_path / "study")
    expected = PrivateImages.open(place, label="label", size=8, channels=1, resize="fit")
    assert np.array_equal(scored[0].images, expected.images)
    study(load_study(study_of(place)), tmp_path / "cut")
    assert np.array_equal(scored[1].images, read_images(place, size=8, channels=1).images)


def test_a_result_of_a_reference_that_was_read_otherwise_is_refused(
    study_of: Callable[..., Path], scored: list[LabelledImages], tmp_path: Path
) -> None:
    path = study_of(_wide(tmp_path / "test.parquet"), resize="fit", window=[40, 400])
    loaded, out = load_study(path), tmp_path / "study"
    study(loaded, out)
    assert study(loaded, out).complete
    result = out / "cells" / "recipe" / "seed-0.json"
    document = json.loads(result.read_text())
    assert document["scored"].pop("resize") == "fit"
    result.write_text(json.dumps(document))  # as one from before references were padded
    with pytest.raises(RunFolderError, match=r"by data\.resize crop, which is fit now") as caught:
        study(loaded, out)
    assert str(result) in str(caught.value.hint)


def test_a_reference_has_its_labels_in_the_column_of_the_runs(
    study_of: Callable[..., Path], scored: list[LabelledImages], tmp_path: Path
) -> None:
    path = tmp_path / "test.csv"
    rows = ["path,kind"]
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(png(np.full((8, 8, 1), number, np.uint8)))
        rows.append(f"{number}.png,{NAMES[number % 3]}")
    path.write_text("\n".join(rows) + "\n")
    study(load_study(study_of(path, label="kind")), tmp_path / "study")
    assert scored[0].labels.tolist() == LABELS.tolist()


def test_a_reference_without_labels_is_refused_before_a_run_is_made(
    study_of: Callable[..., Path],
    scored: list[LabelledImages],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(*_: Any) -> None:
        raise AssertionError("paid for")

    monkeypatch.setattr(runs, "_done", trained)
    place = tmp_path / "test.csv"
    (tmp_path / "1.png").write_bytes(png(np.zeros((8, 8, 1), np.uint8)))
    place.write_text("path,kind\n1.png,a\n")
    with pytest.raises(DataError, match="no label column 'label' among kind"):
        study(load_study(study_of(place)), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_whatever_can_be_scored_has_a_digest_of_its_own(tmp_path: Path) -> None:
    """A flat folder with a table, too; and the same folder by another column is another reference."""
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(np.zeros((8, 8, 1), np.uint8)))
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label,kind\n0.png,a,x\n1.png,b,x\n")
    assert read_images(tmp_path).class_names == ("a", "b")
    first = sha256_of_images(str(tmp_path))
    assert sha256_of_images(str(tmp_path), own=("label",)) == first
    assert sha256_of_images(str(tmp_path), own=("kind",)) != first
    table.write_text("file_name,label,kind\n0.png,a,x\n1.png,c,x\n")
    assert sha256_of_images(str(tmp_path)) != first


def test_features_of_a_study_lie_beside_it_where_they_are_a_path(
    study_of: Callable[..., Path], tmp_path: Path
) -> None:
    path = study_of(_wide(tmp_path / "test.parquet"))
    (tmp_path / "mine").mkdir()
    for name, found in (
        ("mine", str(tmp_path / "mine")),
        ("efficientnet-lite0-64", "efficientnet-lite0-64"),
        ("none", None),
    ):
        assert load_study(path, [f"evaluate.features={name}"]).settings.evaluate.features == found
    weights = tmp_path / "weights.pth"
    weights.touch()
    placed = load_study(path, ["evaluate.features='inception-v3:weights.pth'"]).settings.evaluate.features
    assert placed == f"inception-v3:{weights}"


def test_a_reference_on_the_hub_stays_one(
    study_of: Callable[..., Path],
    scored: list[LabelledImages],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [Row(name=f"{number}.png", shade=number, label=NAMES[number % 3]) for number in range(9)]
    reference = on_a_hub(tmp_path / "hub", rows)
    serve(tmp_path / "hub", monkeypatch.setattr)
    study(
        load_study(study_of(Path("-"), label="finding"), [f"evaluate.reference={reference}"]),
        tmp_path / "out",
    )
    assert scored[0].labels.tolist() == LABELS.tolist()
