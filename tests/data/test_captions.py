"""Texts of images: private ones of a column, public ones of a template, and which image has which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dp_diffusers.data.caption_template import expanded, require_known_fields
from dp_diffusers.data.captions import captions_of
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.traces import Traces
from dp_diffusers.errors import DataError
from dp_diffusers.leaks.scan import Secrets, leaks
from source_support import Row, parquet


def made(**changed: Any) -> PrivateImages:
    fields: dict[str, Any] = {
        "images": np.zeros((3, 4, 4, 1), np.uint8),
        "labels": np.array([1, 0, 1]),
        "class_names": ("well", "ill", "unseen"),
        "owner": np.arange(3),
        "unit_count": 3,
    }
    return PrivateImages(**{**fields, **changed})


def test_a_templates_texts_are_those_of_the_classes_whatever_the_images_show() -> None:
    texts, places = captions_of(made(caption="x-ray, {label}"))
    assert texts == ["x-ray, well", "x-ray, ill", "x-ray, unseen"]
    assert places.tolist() == [1, 0, 1]
    assert places.dtype == np.int64


def test_numbers_stand_for_classes_without_names() -> None:
    texts, places = captions_of(made(caption="digit {label}", class_names=None))
    assert (texts, places.tolist()) == (["digit 0", "digit 1"], [1, 0, 1])


def test_one_text_needs_no_labels() -> None:
    texts, places = captions_of(made(caption="an x-ray", labels=None, class_names=None))
    assert (texts, places.tolist()) == (["an x-ray"], [0, 0, 0])


def test_texts_of_a_column_are_sorted_and_each_image_keeps_its_own() -> None:
    own = ("one upright", "a shadow", "one upright")
    texts, places = captions_of(made(captions=own))
    assert texts == ["a shadow", "one upright"]
    assert tuple(texts[place] for place in places) == own


def test_images_without_a_text_are_refused() -> None:
    with pytest.raises(DataError, match="the images have none") as caught:
        captions_of(made())
    assert "data.caption" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"captions": ("a", "b")}, "one text for each image"),
        ({"captions": ["a", "b", "c"]}, "one text for each image"),
        ({"captions": ("a", "", "c")}, "one text for each image"),
        ({"captions": ("a", "b", "c"), "caption": "x"}, "both caption and captions"),
    ],
)
def test_captions_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(**changed)


def test_guarantee_texts_stay_with_their_images_where_others_are_left_out(tmp_path: Path) -> None:
    rows = [Row(name=f"{shade}.png", shade=shade) for shade in range(4)]
    image = pa.array([row.encoded for row in rows], pa.binary())
    people = [["a", "b"], ["b"], ["c"], ["a", "b"]]
    texts = [f"text number {shade}" for shade in range(4)]
    pq.write_table(pa.table({"image": image, "people": people, "text": texts}), tmp_path / "x.parquet")
    data = PrivateImages.open(tmp_path / "x.parquet", unit="people", caption_column="text")
    assert data.dropped.tolist() == [1]
    assert data.captions is not None
    assert [f"text number {shade}" for shade in data.images[:, 0, 0, 0]] == list(data.captions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption": "x", "caption_column": "text"}, "both caption and caption_column"),
        ({"caption": "x-ray, {lable}"}, r"unknown {lable} in 'x-ray, {lable}'"),
        ({"caption": "x-ray, {label"}, r"unknown {label in"),
        ({"caption": " "}, "not to be empty"),
        ({"caption": "a {label}", "label": None}, "but there are no labels"),
        ({"caption": "a {label}"}, "nobody said which classes there are"),
    ],
)
def test_a_caption_that_cannot_be_is_one_clear_line(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = parquet(tmp_path, [Row(name="a.png")])
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.open(path, **{"label": "finding", **options})
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_texts_of_lists_are_refused(tmp_path: Path) -> None:
    image = pa.array([Row(name="a").encoded], pa.binary())
    pq.write_table(pa.table({"image": image, "text": [["one", "two"]]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="caption column 'text' to hold text, got list"):
        PrivateImages.open(tmp_path / "x.parquet", caption_column="text")


def test_only_the_label_is_filled_in() -> None:
    require_known_fields("100 % {label}")
    assert expanded("{label}: {label}", "{x}") == "{x}: {x}"


def test_guarantee_a_private_text_is_found_and_a_public_one_is_not(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    traces = Traces()
    traces.add_captions(["a shadow in the left lung", "chest x-ray", "an x-ray of a hand"])
    traces.save(tmp_path / "traces.npz")
    secrets = Secrets(
        traces=Traces.load(tmp_path / "traces.npz"), public_text="prompts: [an x-ray of a hand]"
    )
    for text, kinds in (
        ("made of: a shadow in the left lung.", {"the caption of an image"}),
        ("chest x-ray, an x-ray of a hand", set()),
    ):
        (release / "README.md").write_text(text)
        assert {kind for _, kind, _ in leaks(release, secrets)} == kinds


def test_of_a_long_text_its_beginning_is_watched() -> None:
    traces = Traces()
    traces.add_captions(["word " * 100])
    assert {len(text) for text in traces.captions} == {200}


def test_guarantee_a_column_that_is_called_folder_is_a_column(tmp_path: Path) -> None:
    """Its names are those of rows; class folders are named by whoever laid them out."""
    path = parquet(tmp_path, [Row(name="a.png"), Row(name="b.png")])
    table = pq.read_table(path)
    names = ["folder" if name == "finding" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), path)
    for opened in (PrivateImages.open, PrivateImages.from_parquet):
        with pytest.raises(DataError, match="nobody said which classes there are"):
            opened(path, label="folder", caption="a {label}")
