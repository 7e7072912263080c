"""Missing paths are told before anything is decoded, a run stands for its images, its safe for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_diffusers.drawing.images_out import png, write_images
from dp_diffusers.errors import DataError
from dp_diffusers.evaluation import evaluating, sets
from dp_diffusers.evaluation.evaluating import evaluate
from dp_diffusers.evaluation.places import images_of
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from source_support import Row, on_a_hub, serve

NAMES = ("a", "b")
DATA = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8), np.arange(8) % 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with images, and with others in its safe."""
    root = tmp_path / "run"
    (root / "private").mkdir(parents=True)
    (root / "release").mkdir()
    (root / "private" / "run.json").write_text("{}")
    (root / "release" / "certificate.json").write_text("{}")
    write_images(*DATA, NAMES, root / "release" / "images", format="parquet")
    write_images(*DATA, NAMES, root / "private" / "images.new", format="parquet")
    return root


@pytest.mark.parametrize("name", ["reference", "real", "public", "public_model"])
def test_a_missing_path_is_told_before_anything_is_decoded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded first")

    monkeypatch.setattr(sets, "read_images", decoded)
    write_images(*DATA, NAMES, tmp_path / "made", format="parquet")
    missing: Any = [tmp_path / "nothing"] if name == "public" else tmp_path / "nothing"
    with pytest.raises(DataError, match=r"images not found: .*nothing"):
        evaluate(tmp_path / "made", **{"reference": DATA, "features": None, name: missing})


@pytest.mark.parametrize("of", [lambda run: run, lambda run: str(run / "release")])
def test_a_run_or_its_release_stands_for_its_images(run: Path, of: Callable[[Path], Any]) -> None:
    assert images_of(of(run)) == run / "release" / "images"
    assert len(read_images(images_of(of(run))).images) == len(DATA[0])


def test_anything_else_stands_for_itself(run: Path) -> None:
    assert images_of(run / "release" / "images") == run / "release" / "images"
    assert images_of(str(run.parent)) == str(run.parent)
    assert images_of(DATA) is DATA


def test_a_run_without_images_says_how_to_make_them(run: Path) -> None:
    (run / "release" / "images").rename(run.parent / "elsewhere")
    with pytest.raises(DataError, match="holds no images yet") as error:
        images_of(run)
    assert "dp-diffusers generate" in str(error.value.hint)


def test_the_front_door_of_evaluate_maps_a_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def opened(images: Any, *_: Any, **__: Any) -> None:
        seen.append(images)
        raise DataError("seen enough")

    monkeypatch.setattr(evaluating, "opened", opened)
    with pytest.raises(DataError, match="seen enough"):
        evaluate(run, DATA, features=None)
    assert seen == [run / "release" / "images"]


def test_nothing_below_the_safe_of_a_run_is_taken_for_images(run: Path) -> None:
    link = run.parent / "link"
    link.symlink_to(run / "private" / "images.new")
    pictures = run.parent / "pictures" / "private"
    write_images(*DATA, NAMES, pictures, format="imagefolder")
    (pictures / "run.json").write_text("{}")
    for place in (
        pictures,
        pictures.parent,
        pictures / "a",
        run,
        run.parent,
        run / "private",
        run / "private" / "images.new",
        link,
    ):
        with pytest.raises(DataError, match="reaches into the private folder of a run"):
            read_images(place)


def test_a_folder_that_is_only_called_private_may_hold_a_reference(tmp_path: Path) -> None:
    write_images(*DATA, NAMES, tmp_path / "private" / "held-out", format="parquet")
    assert len(read_images(tmp_path / "private" / "held-out").images) == len(DATA[0])


def test_images_that_are_no_squares_get_a_hint_that_fits(tmp_path: Path) -> None:
    write_images(DATA[0][:, :6], DATA[1], NAMES, tmp_path / "flat", format="parquet")
    with pytest.raises(DataError, match="expected square images, got 8x6") as error:
        read_images(tmp_path / "flat")
    assert "data.resize" not in str(error.value.hint)
    assert "squares" in str(error.value.hint)


def _labelled_both_ways(root: Path) -> Path:
    """Class folders a and b, and a table that has each image of a as y in `label`, as p in `finding`."""
    rows = ["file_name,label,finding"]
    for name, label, finding in (("a/1.png", "y", "p"), ("b/2.png", "x", "q")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(png(np.zeros((8, 8, 1), np.uint8)))
        rows.append(f"{name},{label},{finding}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def test_labels_of_a_folder_are_where_one_says_and_nowhere_else(tmp_path: Path) -> None:
    root = _labelled_both_ways(tmp_path / "own")
    assert read_images(root).class_names == ("a", "b")
    assert read_images(root, own=["finding"]).class_names == ("p", "q")
    assert read_images(root, own=["label"]).class_names == ("x", "y")
    assert read_images(root, own=["verdict"]).class_names == ("a", "b")
    assert read_images(root, label="label", own=["finding"]).class_names == ("x", "y")
    assert read_images(root, label="folder", own=["finding"]).class_names == ("a", "b")
    with pytest.raises(DataError, match="no label column 'fnding'") as caught:
        read_images(root, label="fnding", own=["finding"])
    assert "finding" in str(caught.value.hint)
    flat = tmp_path / "flat-with-table"
    flat.mkdir()
    (flat / "1.png").write_bytes(png(np.zeros((8, 8, 1), np.uint8)))
    (flat / "metadata.csv").write_text("file_name,label\n1.png,x\n")
    assert read_images(flat).class_names == ("x",)


def test_a_data_set_of_the_hub_may_be_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(name=f"{number}.png", shade=number, label=NAMES[number % 2]) for number in range(4)]
    place = on_a_hub(tmp_path, rows)
    serve(tmp_path, monkeypatch.setattr)
    found = read_images(place, size=8, channels=1, label="finding")
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.notes == (f"{place}: images of another size would be brought to 8x8 (crop)",)
    made = LabelledImages(images=DATA[0], labels=DATA[1], class_names=NAMES)
    scores = evaluate(made, place, label="finding", features=None, seeds=2, passes=8)
    assert scores.reference_images == 4
