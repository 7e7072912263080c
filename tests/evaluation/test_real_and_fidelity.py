"""Real images to train on and what their classifiers make of synthetic labels, end to end on plain images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation import Scores, evaluate
from dp_diffusers.evaluation.fidelity import Fidelity
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.evaluation.scores import REAL

Labelled = tuple[np.ndarray, np.ndarray]


def halves(count: int, seed: int) -> Labelled:
    """Images whose upper (0) or lower (1) half is bright: learnt in a few steps."""
    drawing = np.random.default_rng(seed)
    images = drawing.integers(0, 60, (count, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(count) % 2
    images[labels == 0, :4] += 150
    images[labels == 1, 4:] += 150
    return images, labels


def scored(**options: object) -> Scores:
    """Synthetic images of which a quarter of class 1 has the wrong label."""
    images, labels = halves(160, 0)
    wrong = (labels == 0) & (np.arange(160) % 8 == 0)
    settings = {"features": None, "seeds": 2, "passes": 3072, **options}
    return evaluate((images, np.where(wrong, 1, labels)), halves(100, 1), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def with_real() -> Scores:
    return scored(real=halves(160, 2), public_model=halves(60, 3))


@pytest.mark.slow
def test_a_row_of_real_images_is_the_ceiling(with_real: Scores) -> None:
    document = json.loads(json.dumps(with_real.to_dict(), allow_nan=False))
    assert [row["trained_on"] for row in document["rows"]][-1] == REAL == "real images, not private"
    assert document["real"]["mean"] > 95
    assert {"real", "label_fidelity"} <= {*document["read_by"]}
    assert document["covered_by_epsilon"] is False


@pytest.mark.slow
def test_the_real_row_teaches_and_finds_the_wrong_labels(with_real: Scores) -> None:
    document = with_real.to_dict()
    assert document["label_fidelity"]["mean"] == pytest.approx(87.5, abs=2)  # 20 of 160
    assert document["fidelity_taught_by"] == REAL
    synthetic, public, real = document["rows"]
    assert synthetic["label_fidelity_per_class"]["0"] == pytest.approx(100, abs=3)
    assert synthetic["label_fidelity_per_class"]["1"] == pytest.approx(80, abs=3)  # 80 of 100
    assert public["label_fidelity"]["mean"] > 95
    assert real["label_fidelity"] is None
    assert "judged by 2 cnn-32-64-128 trained on real images, not private" in with_real.explain()


@pytest.mark.slow
def test_every_row_has_intervals_by_class_and_its_calibration(with_real: Scores) -> None:
    for row in with_real.to_dict()["rows"]:
        for name, interval in row["per_class_interval"].items():
            assert interval["low"] <= row["per_class"][name] <= interval["high"]
        for figure in ("calibration_error", "brier_score", "log_loss"):
            assert row[figure]["low"] <= row[figure]["mean"] <= row[figure]["high"]
    assert "calibration of these classifiers" in with_real.explain()


@pytest.mark.slow
def test_a_notebook_shows_tables_with_names_escaped(with_real: Scores) -> None:
    hostile = "<script>"
    page = replace(with_real, class_names=(hostile, "b"), notes=(hostile,))._repr_html_()
    assert hostile not in page
    assert page.count("&lt;script&gt;") == 2
    assert page.index("not covered by ε") < page.index("<table>")
    assert page.count("<tr>") == 1 + 3 + 1 + 2
    assert REAL in page
    assert "label fidelity" in page


@pytest.mark.slow
def test_one_teacher_from_the_reference_only_when_asked() -> None:
    assert scored(passes=256).to_dict()["label_fidelity"] is None
    found = scored(fidelity=True).to_dict()
    assert found["label_fidelity"] == {"mean": pytest.approx(87.5, abs=2), "low": None, "high": None}
    assert found["fidelity_taught_by"] == "the reference"
    assert "label_fidelity" in found["read_by"]


def test_one_teacher_has_no_interval_and_a_class_without_images_no_share() -> None:
    one = Fidelity(of="x", taught_by="y", agreement=(80.0,), per_class=(80.0, float("nan")))
    assert one.interval is None
    assert one.by_class(("a", "b")) == {"a": 80.0, "b": None}
    assert one.least(("a", "b")) == [(80.0, "a")]


def test_bad_calls_read_no_image(tmp_path: Path) -> None:
    data = halves(8, 0)
    with pytest.raises(ParameterError, match="unknown classifier") as told:
        evaluate(tmp_path, tmp_path, classifier="wrn-40-5")
    assert told.value.hint == "did you mean 'wrn-40-4'?"
    with pytest.raises(ParameterError, match="trained on the CPU"):
        evaluate(tmp_path, tmp_path, device="cuda")
    with pytest.raises(ParameterError, match="unknown device"):
        evaluate(tmp_path, tmp_path, classifier="wrn-40-4", device="gpu")
    with pytest.raises(DataError, match="1 real image has a class that the synthetic images lack"):
        evaluate(data, data, real=(data[0], np.array([0, 1, 0, 1, 0, 1, 0, 2])))


@pytest.mark.slow
def test_real_images_that_are_tested_too_are_said() -> None:
    data = halves(20, 0)
    real = np.concatenate([data[0][:3], halves(17, 5)[0]]), data[1]
    notes = evaluate(data, data, real=real, features=None, seeds=2, passes=8).notes
    assert any(note.startswith("3 real images are in the reference too") for note in notes)


def test_large_sets_lie_in_a_file_but_real_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers.evaluation import reading, sets

    images, labels = halves(10, 0)
    for part in ("one", "two"):
        write_images(images, labels, ("a", "b"), tmp_path / part, format="parquet")
    monkeypatch.setattr(reading, "ON_DISK_FROM", 100)
    monkeypatch.setattr(reading, "TOLD_FROM", 15)
    found = sets.opened(tmp_path, None)
    assert isinstance(found.images, np.memmap)
    assert np.array_equal(found.images, np.concatenate([images, images]))
    assert found.labels.tolist() == [*labels, *labels]
    assert not isinstance(sets.opened(tmp_path, (8, 8, 1), on_disk=False).images, np.memmap)
    asked: list[bool] = []
    opened = sets.opened
    monkeypatch.setattr(
        "dp_diffusers.evaluation.evaluating.opened",
        lambda *a, on_disk=True, **k: (asked.append(on_disk), opened(*a, on_disk=on_disk, **k))[1],
    )
    told: list[dict[str, object]] = []
    progress = lambda **facts: told.append(facts)  # noqa: E731
    evaluate(found, tmp_path, real=tmp_path, features=None, seeds=2, passes=8, progress=progress)
    assert asked == [True, False, False]
    read = [str(facts["message"]) for facts in told if str(facts.get("message")).startswith("reading")]
    assert read[:2] == ["reading images: 10 %", "reading images: 20 %"]
    assert all(line.endswith(" %") for line in read), "the number of images may be a private one"


@pytest.mark.slow
def test_files_of_other_sizes_are_refused(tmp_path: Path) -> None:
    for part, size in (("one", 8), ("two", 12)):
        images = np.zeros((4, size, size, 1), np.uint8)
        write_images(images, np.arange(4) % 2, ("a", "b"), tmp_path / part, format="parquet")
    with pytest.raises(DataError, match="mixed sizes"):
        evaluate(tmp_path, LabelledImages(images=images, labels=np.arange(4) % 2, class_names=("a", "b")))
