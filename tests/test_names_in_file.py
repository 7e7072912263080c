"""Names of classes that the private file's schema brings: used, and told in the certificate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dp_diffusers as dpd
from dp_diffusers.drawing.images_out import png
from loop_support import cheap_trainings

NAMES = ["normal", "opacity"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty-four grey images of 8 x 8 whose labels are numbers that the file's schema names."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 1)).astype(np.uint8)
    rows = {"image": [{"bytes": png(image), "path": None} for image in pixels], "label": [0, 1] * 12}
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    table = pa.table(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


def test_they_are_known_to_be_the_files(file: Path) -> None:
    assert dpd.PrivateImages.from_parquet(file).names_in_file
    assert not dpd.PrivateImages.from_parquet(file, classes=NAMES).names_in_file
    assert not dpd.PrivateImages.from_parquet(file, label=None).names_in_file


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, NAMES])
def test_guarantee_the_certificate_says_where_names_come_from(
    file: Path,
    tiny_base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str] | None,
) -> None:
    cheap_trainings(monkeypatch.setattr)
    data = dpd.PrivateImages.from_parquet(file, classes=given)
    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=5, delta=1e-3), dpd.DPSGD(steps=1, expected_units=8, population=24)
    )
    release = dpd.finetune(tiny_base_folder, data, plan, out=tmp_path / "run", ledger=tmp_path / "x.ledger")
    said = release.certificate.to_dict()
    assert said["classes"]["names"] == NAMES
    from_data = given is None
    assert ("Class names were taken from the data" in str(said["statements"])) == from_data
    assert said["classes"].get("from_data", False) == from_data
    assert dpd.Certificate.verify(release.path).valid
