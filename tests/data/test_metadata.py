"""Folders with a table: owners and labels from `metadata.csv`, and each thing that can be wrong with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.errors import DataError

NAMES = ("ant/a.png", "ant/b.png", "cat/a.png")
TABLE = """\
file_name,patient_id,finding
cat/a.png,p1,sick
ant/b.png,p2,well
ant/a.png,p1,well
"""


def _folder(root: Path, table: str | None = TABLE, names: tuple[str, ...] = NAMES) -> Path:
    for value, name in enumerate(names):
        stream = io.BytesIO()
        Image.new("L", (8, 8), value).save(stream, "PNG")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(stream.getvalue())
    if table is not None:
        (root / "metadata.csv").write_text(table, encoding="utf-8")
    return root


def test_guarantee_images_of_a_folder_belong_to_the_person_in_the_table(tmp_path: Path) -> None:
    data = PrivateImages.from_folder(_folder(tmp_path), unit="patient_id")
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.owner.tolist() == [0, 1, 0]
    assert data.unit_count == 2
    assert data.unit == "patient_id"
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]
    opened = PrivateImages.open(tmp_path, label="auto", unit="patient_id")
    assert opened.owner.tolist() == [0, 1, 0]
    assert PrivateImages.open(tmp_path, label="auto", unit="image").unit_count == 3


def test_labels_from_a_column(tmp_path: Path) -> None:
    given = PrivateImages.from_folder(_folder(tmp_path), labels="finding", classes=["well", "sick"])
    assert given.labels is not None
    assert given.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("well", ["well", "1"])
def test_guarantee_no_row_decides_whether_labels_are_numbers(tmp_path: Path, well: str) -> None:
    """Text needs declared classes; one row of text among numbers is refused, not a new numbering."""
    table = TABLE.replace("well", well)
    with pytest.raises(DataError, match="nobody said which classes") as caught:
        PrivateImages.from_folder(_folder(tmp_path, table), labels="finding")
    assert "data.classes" in str(caught.value.hint)


def test_numbers_are_names_where_the_declared_classes_are_numbers(tmp_path: Path) -> None:
    table = TABLE.replace("well", "10").replace("sick", "2")
    data = PrivateImages.from_folder(_folder(tmp_path, table), labels="finding", classes=["10", "2"])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]


def test_a_byte_order_mark_and_spaces_are_no_part_of_names(tmp_path: Path) -> None:
    table = "\ufefffile_name, patient_id\n./ant/a.png, p1\n\nant/b.png,p1 \ncat/a.png,p2\n"
    data = PrivateImages.from_folder(_folder(tmp_path, table), unit="patient_id")
    assert data.owner.tolist() == [0, 0, 1]


def test_what_generate_writes_is_read_back(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    labels = np.arange(12) % 11
    write_images(pixels, labels, None, tmp_path / "images", format="imagefolder")
    data = PrivateImages.from_folder(tmp_path / "images", labels="label")
    assert data.labels is not None
    assert dict(zip(data.images[:, 0, 0, 0].tolist(), data.labels.tolist())) == dict(
        enumerate(labels.tolist())
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"has no unit column 'patient_id': it holds no metadata\.csv"),
        ("file_name,patient\na,b\n", r"no unit column 'patient_id' among patient$"),
        ("name,patient_id\na,b\n", r"no image column 'file_name' among name, patient_id$"),
        ("", "no image column 'file_name' among none"),
        ("file_name,patient_id,patient_id\n", "a column is there twice"),
        (TABLE.replace("ant/a.png,p1,well\n", ""), r"no row names the image ant/a\.png"),
        (TABLE + "ant/c.png,p1,well\n", r"a row names no image of the folder: ant/c\.png"),
        (TABLE + "ant/a.png,p9,well\n", r"ant/a\.png has two rows"),
        (TABLE.replace("b.png,p2", "b.png,"), r"column 'patient_id' is empty for ant/b\.png"),
        (TABLE.replace("b.png,p2", "b.png,NaN"), "is empty for ant/b.png"),
        (TABLE.replace("b.png,p2", "b.png,null"), "is empty for ant/b.png"),
        (TABLE.replace(",p2", ""), r"metadata\.csv:3: expected 3 values, got 2"),
        (TABLE.replace("p2", 'p"2", "x'), "metadata.csv"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, table: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.from_folder(_folder(tmp_path, table), unit="patient_id")
    assert "\n" not in caught.value.message


def test_a_table_that_is_no_text_is_one_clear_line(tmp_path: Path) -> None:
    (_folder(tmp_path) / "metadata.csv").write_bytes(b"\xff\xfe\x00file_name")
    with pytest.raises(DataError, match="cannot be read"):
        PrivateImages.from_folder(tmp_path, unit="patient_id")


def test_a_class_may_be_called_none_but_not_be_empty(tmp_path: Path) -> None:
    classes = ["well", "none"]
    table = TABLE.replace("sick", "none")
    data = PrivateImages.open(_folder(tmp_path, table), label="finding", classes=classes)
    assert data.class_names == ("well", "none")
    (tmp_path / "metadata.csv").write_text(TABLE.replace("sick", ""))
    with pytest.raises(DataError, match=r"label column 'finding' is empty for cat/a\.png"):
        PrivateImages.open(tmp_path, label="finding")


@pytest.mark.planted
def test_a_planted_reader_that_takes_nan_for_an_owner_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_diffusers.data import csv_tables

    def trusting(value: Any) -> bool:
        return False

    monkeypatch.setattr(csv_tables, "is_missing", trusting)
    with pytest.raises(pytest.fail.Exception):
        test_a_bad_table_is_one_clear_line(
            tmp_path, TABLE.replace("p2", "nan").replace("p1", "nan"), "is empty for ant/a.png"
        )
