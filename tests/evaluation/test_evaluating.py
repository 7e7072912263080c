"""Evaluation end to end on drawn digits: rows, intervals, the JSON document, classes by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dp_diffusers import evaluation
from dp_diffusers.data.drawn_digits import drawn_digits
from dp_diffusers.data.public_images import load_public
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError, ParameterError
from dp_diffusers.evaluation.evaluating import evaluate
from dp_diffusers.evaluation.held_apart import IN_NO_RUN
from dp_diffusers.evaluation.intervals import Interval
from dp_diffusers.evaluation.reading import LabelledImages, read_images

NAMES = tuple("0123456789")


def _digits(count: int, size: int, seed: int, fonts: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    images, labels = drawn_digits(count, size, seed, fonts=fonts)
    return images[..., None], labels


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "imagefolder"])
def test_files_of_another_size_are_resized_and_said(tmp_path: Path, format: str) -> None:
    write_images(*_digits(500, 12, 0), NAMES, tmp_path / "synthetic", format=format)
    write_images(*_digits(200, 28, 1), NAMES, tmp_path / "reference", format="parquet")
    scores = evaluate(tmp_path / "synthetic", tmp_path / "reference", features=None, seeds=2, passes=2560)
    assert scores.accuracy.mean > 20
    assert scores.accuracy.low <= scores.accuracy.mean <= scores.accuracy.high
    assert any("another size would be brought to 12x12" in note for note in scores.notes)
    assert "not covered by ε" in scores.explain()
    assert scores.reads_private


def test_rows_and_document_with_public_images() -> None:
    public = load_public([{"source": "drawn_digits", "count": 200}], 12, 1, 0)
    synthetic, reference = _digits(200, 12, 1), _digits(100, 12, 2)
    scores = evaluate(
        synthetic,
        reference,
        public=public,
        public_model=synthetic,
        with_public=True,
        features=None,
        seeds=2,
        passes=512,
    )
    document = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert {"accuracy", "fid", "kid", "features", "reads_private"} <= document.keys()
    assert document["accuracy"].keys() == {"mean", "low", "high"}
    assert [row["images"] for row in document["rows"]] == [200, 200, 200, 400]
    assert document["public_model"] == document["accuracy"]
    assert document["with_public"] is not None
    assert document["reads_private"] is True
    assert len(document["rows"][0]["per_class"]) == 10
    assert "ε = 0" in scores.explain()


def test_progress_is_told_of_each_seed() -> None:
    told: list[dict[str, object]] = []
    data = _digits(40, 8, 0)
    scores = evaluate(
        data, data, features=None, seeds=2, passes=256, progress=lambda **facts: told.append(facts)
    )
    assert ["not covered by ε" in str(facts["message"]) for facts in told if "message" in facts] == [
        True,
        False,
    ]
    assert {"step": 1, "steps": 1} in told
    assert scores.notes == (IN_NO_RUN,)


def test_a_class_that_no_synthetic_image_shows_is_said() -> None:
    images, labels = data = _digits(40, 8, 0)
    few = LabelledImages(images=images[labels < 9], labels=labels[labels < 9], class_names=NAMES)
    scores = evaluate(few, data, features=None, seeds=2, passes=1)
    assert any("no synthetic image of 1 class (9) that" in note for note in scores.notes)


@pytest.mark.parametrize("as_arrays", [True, False])
def test_sets_of_which_no_class_meets_are_refused(as_arrays: bool, tmp_path: Path) -> None:
    images, labels = _digits(200, 8, 0)
    sets: list[object] = []
    for name, chosen in (("synthetic", labels % 6 >= 3), ("reference", labels % 6 < 3)):
        part = images[chosen], labels[chosen] % 6
        write_images(*part, NAMES[:6], tmp_path / name, format="parquet")
        sets.append(part if as_arrays else tmp_path / name)
    with pytest.raises(DataError, match="no class has both synthetic images and images of the ref") as caught:
        evaluate(sets[0], sets[1], features=None, seeds=2, passes=1)  # type: ignore[arg-type]
    assert "reference: 0, 1, 2; of the synthetic images: 3, 4, 5" in str(caught.value.hint)


def test_interval_of_three_values() -> None:
    found = Interval.of([90.0, 92.0, 94.0])
    assert found.mean == pytest.approx(92)
    assert found.high - found.mean == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)
    assert Interval.of([99.0, 100.0]).high == 100


def test_bad_calls(tmp_path: Path) -> None:
    data = _digits(20, 8, 0)
    with pytest.raises(ParameterError, match="no public images"):
        evaluate(data, data, with_public=True, features=None)
    with pytest.raises(ParameterError, match="seeds"):
        evaluate(data, data, seeds=1, features=None)
    with pytest.raises(DataError, match="expected images of shape"):
        evaluate(data, _digits(20, 12, 0), features=None)
    with pytest.raises(DataError, match="class that the synthetic images lack"):
        evaluate((data[0], data[1] % 5), data, features=None)
    with pytest.raises(DataError, match="not found"):
        evaluate(tmp_path / "nothing", data, features=None)
    write_images(data[0], None, None, tmp_path / "unlabelled", format="parquet")
    with pytest.raises(DataError, match="label"):
        read_images(tmp_path / "unlabelled")


def test_package_offers_its_names_and_no_others() -> None:
    assert all(getattr(evaluation, name) for name in evaluation.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        evaluation.nonsense  # noqa: B018
