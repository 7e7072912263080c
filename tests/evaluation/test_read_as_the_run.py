"""Real images of an evaluation become squares, and DICOM levels of grey, in the way that the run's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import write_images, write_parquet
from dp_diffusers.evaluation import evaluating
from dp_diffusers.evaluation.evaluating import evaluate
from dp_diffusers.evaluation.reading import LabelledImages, as_the_run, read_images
from dp_diffusers.run.folder import RunFolder
from source_support import dicom_file

NAMES = ("a", "b")
LABELS = np.arange(8) % 2
WINDOW = [0, 160]


def _run(root: Path, **data: Any) -> Path:
    """Images 8 x 8 of a run with these settings of `data`, beside its release, which is not opened then."""
    folder = RunFolder(root / "run")
    folder.create()
    folder.recipe.write_text(yaml.safe_dump({"base": "base", "data": data}))
    (folder.release / "certificate.json").write_text("{}")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    write_images(pixels, LABELS, NAMES, folder.root / "other", format="parquet")
    return folder.root / "other"


def _wide(place: Path, seed: int) -> Path:
    """Images twice as wide as they are high, as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 16, 1), dtype=np.uint8)
    write_parquet(pixels, LABELS, NAMES, place)
    return place


def _scanned(root: Path) -> Path:
    """DICOM in class folders, without a window of its own."""
    rng = np.random.default_rng(2)
    for number in range(8):
        folder = root / NAMES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 4096, (8, 8)).astype(np.uint16)
        options: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": "-1024"}
        dicom_file(folder / f"{number}.dcm", values, **options)
    return root


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> list[LabelledImages]:
    """The real images of an evaluation: the reference, then those to train on. Nothing learns from them."""
    seen: list[LabelledImages] = []

    def enough(*_: Any) -> None:
        raise RuntimeError("seen enough")

    monkeypatch.setattr(evaluating, "HeldOut", seen.append)
    monkeypatch.setattr(evaluating, "public_images", enough)
    return seen


def _open(images: Path, reference: Path, **more: Any) -> None:
    with pytest.raises(RuntimeError, match="seen enough"):
        evaluate(images, reference, features=None, **more)


def test_reference_and_real_images_are_padded_where_the_runs_were(
    tmp_path: Path, gates: list[LabelledImages]
) -> None:
    images = _run(tmp_path, path=str(tmp_path / "train.parquet"), label="label", resize="fit")
    tested, real = _wide(tmp_path / "test.parquet", 1), _wide(tmp_path / "real.parquet", 2)
    _open(images, tested, real=real)
    for found, place in zip(gates, (tested, real), strict=True):
        asked: dict[str, Any] = {"size": 8, "channels": 1, "resize": "fit"}
        assert np.array_equal(found.images, PrivateImages.open(place, label="label", **asked).images)
    assert "test.parquet: images of another size would be brought to 8x8 (fit)" in gates[0].notes


def test_a_reference_of_dicom_is_shown_by_the_window_of_the_run(
    tmp_path: Path, gates: list[LabelledImages]
) -> None:
    images = _run(tmp_path, path=str(tmp_path / "train"), label="folder", window=WINDOW)
    reference = _scanned(tmp_path / "scans")
    _open(images, reference)
    expected = PrivateImages.open(reference, label="folder", size=8, channels=1, window=WINDOW)
    assert np.array_equal(gates[0].images, expected.images)
    assert np.array_equal(gates[0].labels, np.sort(LABELS)), "of the class folders, as the run's are"
    assert (
        "scans: values of DICOM images are shown by the run's data.window: center 0, width 160"
        in gates[0].notes
    )


def test_a_window_changes_nothing_where_no_image_is_dicom(
    tmp_path: Path, gates: list[LabelledImages]
) -> None:
    images = _run(tmp_path, path=str(tmp_path / "train"), label="auto", window=WINDOW)
    _open(images, _wide(tmp_path / "test.parquet", 1))
    assert np.array_equal(gates[0].images, read_images(tmp_path / "test.parquet", size=8, channels=1).images)
    assert not any("DICOM" in note for note in gates[0].notes)


def test_without_a_run_images_are_cut_to_a_square() -> None:
    assert as_the_run({}) == {"own": (), "resize": "crop", "window": None}
