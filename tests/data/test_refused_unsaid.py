"""Refusals of private images say where the first such image is: no cell, no folder's name, no count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_private_images import folder, parquet, png, structs

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"label": ["well", "ill", "ill", "well"]}, {"label": "label", "classes": ["well", "sick"]}),
        ({"label": [0, 77, 77, 0]}, {"label": "label", "classes": ["well", "sick"]}),
        ({"label": [0, -77, -77, 0]}, {"label": "label"}),
        ({"label": [0, 777_777, 777_777, 0]}, {"label": "label"}),
        ({"person": ["p", None, None, "ill"]}, {"unit": "person"}),
        ({"person": ["p", "ill;p77", "ill;p77", "p"]}, {"unit": "person"}),
        ({"text": ["an x-ray", None, None, "ill"]}, {"caption_column": "text"}),
    ],
)
def test_guarantee_a_refusal_says_where_and_neither_what_nor_how_often(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any]
) -> None:
    path = parquet(tmp_path / "x.parquet", {"image": structs(png(), png(), png(), png()), **columns})
    with pytest.raises(DataError, match=r"in row 1 \(counted from 0\)") as caught:
        PrivateImages.open(path, **options)
    said = f"{caught.value.message.removeprefix(str(path))} {caught.value.hint}"
    assert "ill" not in said.replace("fill", "")
    assert "77" not in said
    assert "2 " not in said.replace("2 classes", "")


def test_guarantee_a_class_folder_is_not_named(tmp_path: Path) -> None:
    path = folder(tmp_path, {"well/a.png": png(), "weird/b.png": png()})
    with pytest.raises(DataError, match=r"^a class folder is not in data.classes$") as caught:
        PrivateImages.open(path, label="folder", classes=["well", "sick"])
    assert "weird" not in f"{caught.value.message} {caught.value.hint}"
    assert "capitals too; the classes are well, sick" in str(caught.value.hint)


def test_arrays_of_another_shape_are_refused_uncounted() -> None:
    with pytest.raises(DataError, match=r"got float32 \[N, 4, 4\]$"):
        PrivateImages(
            images=np.zeros((123, 4, 4), np.float32),
            labels=None,
            class_names=None,
            owner=np.arange(123),
            unit_count=123,
        )
