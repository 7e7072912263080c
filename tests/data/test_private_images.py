"""Private images: both layouts, owners, labels, sizes, and each thing that can be wrong with them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.sources import open_source
from dp_diffusers.errors import DataError, ParameterError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def png(value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    colour: Any = value if mode in ("L", "I;16") else (value, 0, 0, 255)[: len(mode)]
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def parquet(path: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pa.table(columns)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def structs(*values: bytes) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": value, "path": None} for value in values], kind)


def test_class_folders(tmp_path: Path) -> None:
    images = PrivateImages.from_folder(
        folder(
            tmp_path, {"cat/b.png": png(2), "cat/a.png": png(1), "ant/x.png": png(3), ".hidden/x.png": b""}
        )
    )
    assert images.images.shape == (3, 8, 8, 1)
    assert images.images[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    assert images.class_names == ("ant", "cat")
    assert images.class_names_from_data
    assert images.owner.tolist() == [0, 1, 2]
    assert images.unit_count == 3


def test_given_classes_fix_names_and_order(tmp_path: Path) -> None:
    root = folder(tmp_path, {"cat/a.png": png(), "ant/x.png": png()})
    images = PrivateImages.from_folder(root, classes=["cat", "bee", "ant"])
    assert images.labels is not None
    assert images.labels.tolist() == [2, 0]
    assert images.class_names == ("cat", "bee", "ant")
    assert not images.class_names_from_data


def test_flat_folder_without_labels(tmp_path: Path) -> None:
    images = PrivateImages.open(folder(tmp_path, {"b.png": png(2), "deep/a.png": png(1)}))
    assert images.labels is None
    assert images.class_names is None
    assert not images.class_names_from_data
    assert images.images[:, 0, 0, 0].tolist() == [2, 1]


def test_parquet_with_declared_names_and_units(tmp_path: Path) -> None:
    columns = {"image": structs(png(1), png(2), png(3)), "label": [1, 0, 1], "patient": ["b", "a", "b"]}
    path = parquet(tmp_path / "x.parquet", columns, names=["well", "ill"])
    images = PrivateImages.open(path, label="label", unit="patient")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1]
    assert images.class_names == ("well", "ill")
    assert not images.class_names_from_data, "numbers are used as they are"
    assert images.owner.tolist() == [0, 1, 0]
    assert images.unit_count == 2
    assert images.owner.dtype == np.int64


def test_given_classes_reorder_declared_names(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "x.parquet", {"image": structs(png(), png()), "label": [1, 0]}, names=["well", "ill"]
    )
    reordered = PrivateImages.from_parquet(path, classes=["ill", "well"])
    assert reordered.labels is not None
    assert reordered.labels.tolist() == [0, 1]
    renamed = PrivateImages.from_parquet(path, classes=["healthy", "sick"])
    assert renamed.labels is not None
    assert renamed.labels.tolist() == [1, 0]


def test_raw_bytes_and_text_labels(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"photo": [png(), png()], "kind": ["z", "y"]})
    images = PrivateImages.from_parquet(path, label="kind")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]
    assert images.class_names == ("y", "z")
    assert images.class_names_from_data


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for index in (1, 0):
        parquet(
            tmp_path / "data" / f"train-{index}.parquet", {"image": structs(png(index)), "label": [index]}
        )
    images = PrivateImages.open(tmp_path, label="label")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]


def test_auto_takes_labels_from_where_they_usually_are(tmp_path: Path) -> None:
    folders = folder(tmp_path / "a", {"ant/x.png": png(), "cat/x.png": png()})
    assert PrivateImages.open(folders, label="auto").class_names == ("ant", "cat")
    (tmp_path / "b" / "data").mkdir(parents=True)
    columns = {"image": structs(png()), "label": ["cat"]}
    parquet(tmp_path / "b" / "data" / "train.parquet", columns)
    assert PrivateImages.open(tmp_path / "b", label="auto").class_names == ("cat",)
    file = parquet(tmp_path / "x.pq", columns)
    assert PrivateImages.open(file, label="auto").class_names == ("cat",)


def test_the_unit_is_kept_with_the_images(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"image": structs(png()), "label": [0], "patient": ["a"]})
    assert PrivateImages.from_parquet(path, unit="patient").unit == "patient"
    for unit in (None, "image"):
        assert PrivateImages.from_parquet(path, unit=unit).unit == "image"
        assert PrivateImages.open(path, unit=unit).unit == "image"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"owner": np.array([0, 0, 1]), "unit_count": 2}, "each image to be its own owner"),
        ({"owner": np.array([0, 2, 2]), "unit_count": 3, "unit": "patient"}, "without gaps"),
        ({"owner": np.array([0, 1])}, "one owner and one label for each image"),
        ({"labels": np.array([0, 1])}, "one owner and one label for each image"),
    ],
)
def test_guarantee_owners_are_what_the_unit_says(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "images": np.zeros((3, 8, 8, 1), np.uint8),
        "labels": None,
        "class_names": None,
        "owner": np.arange(3),
        "unit_count": 3,
    }
    PrivateImages(**given)
    with pytest.raises(DataError, match=message):
        PrivateImages(**{**given, **changed})


def test_one_other_size_is_resized_and_said(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a.png": png(7, (16, 16)), "b.png": png(9, (16, 16))})
    images = PrivateImages.open(root, size=8, channels=3)
    assert images.images.shape == (2, 8, 8, 3)
    assert images.images[:, 4, 4].tolist() == [[7, 7, 7], [9, 9, 9]]
    assert images.notes == ["images resized from 16x16 to 8x8"]


@pytest.mark.parametrize("odd", [png(9, (16, 16)), png(9, (24, 16)), png(9, (8, 8), "RGB")])
def test_guarantee_notes_do_not_depend_on_any_one_image(odd: bytes, tmp_path: Path) -> None:
    root = folder(tmp_path, {"a.png": png(7, (8, 8)), "b.png": odd})
    images = PrivateImages.open(root, size=8, channels=1, resize="fit")
    assert images.notes == ["images of another size would be brought to 8x8 (fit)"]


def test_nothing_is_said_where_nothing_was_changed(tmp_path: Path) -> None:
    assert PrivateImages.open(folder(tmp_path, {"a.png": png()}), size=8, channels=1).notes == []


@pytest.mark.parametrize(("how", "corner"), [("fit", 0), ("crop", 5)])
def test_mixed_sizes_with_resize(tmp_path: Path, how: Any, corner: int) -> None:
    root = folder(tmp_path, {"a.png": png(5, (16, 8)), "b.png": png(5, (8, 8))})
    images = PrivateImages.open(root, size=8, resize=how)
    assert images.images[0, 0, 0, 0] == corner
    assert images.images[1].min() == 5


def test_colours_meet_by_conversion(tmp_path: Path) -> None:
    root = folder(
        tmp_path, {"a.png": png(255, mode="RGB"), "b.png": png(100), "c.png": png(255, mode="RGBA")}
    )
    assert PrivateImages.open(root, channels=1).images[:, 0, 0, 0].tolist() == [76, 100, 76]
    assert PrivateImages.open(root, channels=3).images[1, 0, 0].tolist() == [100, 100, 100]


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a.png": png(0x8000, mode="I;16")})
    assert PrivateImages.open(root).images[0, 0, 0, 0] == 0x80


def test_transparent_pixels_become_black(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (200, 200, 200, 0)).save(stream, "PNG")
    assert PrivateImages.open(folder(tmp_path, {"a.png": stream.getvalue()}), channels=1).images.max() == 0


def test_repr_shows_neither_pixels_nor_counts(tmp_path: Path) -> None:
    images = PrivateImages.from_folder(folder(tmp_path, {"secret/a.png": png()}))
    assert repr(images) == "PrivateImages(8x8x1, classes=1)"


FOLDERS: list[tuple[dict[str, bytes], dict[str, Any], str]] = [
    ({}, {"label": "folder"}, "no images in"),
    ({"a/x.txt": b"1"}, {"label": "folder"}, "no images in"),
    ({"a/x.png": png(), "y.png": png()}, {"label": "folder"}, "an image lies outside the class folders"),
    ({"a/x.png": png()}, {"label": "kind"}, "has no label column 'kind': it holds no metadata.csv"),
    ({"a/x.png": png()}, {"label": "folder", "unit": "patient"}, "has no unit column 'patient': it holds no"),
    ({"a/x.png": png(), "a/broken.png": b"no"}, {"label": "folder"}, r"image cannot be read: .*broken\.png"),
    ({"a/x.png": png()[:-30]}, {"label": "folder"}, r"image cannot be read: .*x\.png"),
    ({"a/x.png": b""}, {"label": "folder"}, r"image cannot be read: .*x\.png"),
    ({"a/x.png": png(), "b/y.png": png(size=(9, 9))}, {"label": "folder"}, "mixed sizes: 8x8 .* and 9x9"),
    ({"a/x.png": png(size=(9, 8))}, {"label": "folder"}, "expected square images, got 9x8"),
    (
        {"cta/x.png": png()},
        {"label": "folder", "classes": ["cat", "dog"]},
        r"^a class folder is not in data.classes$",
    ),
    ({"x.png": png()}, {"caption": "a {label}"}, "the caption needs {label}"),
]


@pytest.mark.parametrize(("files", "options", "message"), FOLDERS, ids=[row[2][:32] for row in FOLDERS])
def test_a_bad_folder_is_one_clear_line(
    tmp_path: Path, files: dict[str, bytes], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.open(folder(tmp_path, files), **options)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"label": "verdict"},
            "name one of these (data.label in a recipe, --label of `evaluate`), or add it",
        ),
        ({"unit": "owner"}, "name one of these (budget.unit in a recipe), or add it"),
    ],
)
def test_the_hint_of_a_column_says_where_it_is_named(
    tmp_path: Path, asked: dict[str, Any], says: str
) -> None:
    path = parquet(tmp_path / "x.parquet", {"image": structs(png()), "finding": ["a"]})
    with pytest.raises(DataError) as caught:
        PrivateImages.open(path, **asked)
    assert caught.value.hint == says


TABLES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"image": structs(png()), "label": [0]}, {"label": "labl"}, "no label column 'labl'"),
    (
        {"image": structs(png()), "label": [0]},
        {"unit": "patient"},
        "no unit column 'patient' among image, label",
    ),
    (
        {"image": structs(png(), png()), "unit": ["a", None]},
        {"unit": "unit"},
        "missing in row 1",
    ),
    ({"image": structs(png(), png()), "unit": ["", "b"]}, {"unit": "unit"}, "missing in row 0"),
    (
        {"image": structs(png(), png()), "unit": ["a", " NaN"]},
        {"unit": "unit"},
        "missing in row 1",
    ),
    ({"image": structs(png(), png()), "unit": [1.0, float("nan")]}, {"unit": "unit"}, "missing in row 1"),
    ({"image": structs(png(), png()), "label": [0, None]}, {"label": "label"}, "is null in row 1"),
    ({"image": structs(png()), "label": [0.5]}, {"label": "label"}, "whole numbers or text, got float"),
    (
        {"image": structs(png()), "label": [3]},
        {"label": "label", "classes": ["a", "b"]},
        "the label in row 0 .counted from 0. is outside",
    ),
    ({"image": structs(png()), "label": [-1]}, {"label": "label"}, "expected labels >= 0, that in row 0"),
    ({"image": structs(png(), b"")}, {}, r"cannot be read: .*x\.parquet, row 1"),
    ({"image": structs()}, {}, "no images in"),
    ({"label": [1]}, {}, "no image column among label"),
]


@pytest.mark.parametrize(("columns", "options", "message"), TABLES, ids=[row[2][:32] for row in TABLES])
def test_a_bad_table_is_one_clear_line(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.open(parquet(tmp_path / "x.parquet", columns), **options)
    assert "\n" not in caught.value.message


def test_a_label_outside_the_declared_names_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"image": structs(png()), "label": [2]}, names=["a", "b"])
    with pytest.raises(DataError, match=r"the label in row 0 .counted from 0. is outside the classes"):
        PrivateImages.open(path, label="label")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "images not found"),
        ("x.txt", "expected a folder or a .parquet file"),
        ("x.parquet", "not a parquet"),
    ],
)
def test_a_path_that_holds_no_images(tmp_path: Path, name: str, message: str) -> None:
    if name != "nothing":
        (tmp_path / name).write_text("hello")
    with pytest.raises(DataError, match=message):
        PrivateImages.open(tmp_path / name)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="unknown data source 'foldr'") as caught:
        open_source("foldr", "x", label=None, unit=None)
    assert caught.value.hint == "did you mean 'folder'?"


def test_chest_x_rays_belong_to_patients() -> None:
    path = SHARED / "chestxray64.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    images = PrivateImages.open(path, label="label", unit="patient_id", size=32)
    assert images.unit_count == 2846
    assert np.array_equal(np.unique(images.owner), np.arange(2846))


def made(**changed: Any) -> PrivateImages:
    fields: dict[str, Any] = {
        "images": np.zeros((2, 4, 4, 1), np.uint8),
        "labels": np.array([0, 1]),
        "class_names": ("a", "b"),
        "owner": np.arange(2),
        "unit_count": 2,
    }
    return PrivateImages(**{**fields, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 1), np.float32)}, "expected images of uint8"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "expected images of uint8"),
        ({"labels": np.array([0, 2])}, "expected labels from 0 to 1"),
        ({"labels": np.array([0, -1])}, "expected labels from 0 to 1"),
        ({"labels": np.array([0, -1]), "class_names": None}, "expected labels >= 0"),
        ({"labels": np.array([0.0, 1.0])}, "expected labels of int64"),
        ({"labels": np.array([0])}, "one owner and one label for each image"),
        ({"owner": np.arange(1), "unit_count": 1}, "one owner and one label for each image"),
    ],
)
def test_arrays_of_another_kind_are_refused(changed: dict[str, Any], message: str) -> None:
    made()
    with pytest.raises(DataError, match=message):
        made(**changed)


def test_class_folders_called_by_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    images = PrivateImages.from_folder(
        folder(tmp_path, {f"{name}/x.png": png() for name in ("0", "1", "2", "10")})
    )
    assert images.class_names == ("0", "1", "2", "10")


def test_unit_ids_of_another_type_in_another_file_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"image": structs(png()), "label": [0], "patient": [7]})
    parquet(tmp_path / "b.parquet", {"image": structs(png()), "label": [0], "patient": ["7"]})
    with pytest.raises(DataError, match=r"unit column 'patient' is of int and str in different files"):
        PrivateImages.open(tmp_path, label="label", unit="patient")


def test_guarantee_numbers_without_declared_classes_have_no_names(tmp_path: Path) -> None:
    """How many classes there are would otherwise be for one row to say."""
    images = PrivateImages.from_parquet(
        parquet(tmp_path / "x.parquet", {"image": structs(png(), png()), "label": [0, 7]})
    )
    assert images.class_names is None
    assert not images.class_names_from_data


def test_blank_images_leave_no_traces_and_stop_nothing() -> None:
    """They say nothing that could be found again: a whole set of them is looked at like any other."""
    from dp_diffusers.data.traces import Traces

    traces = Traces()
    traces.add_pixels(np.zeros((12, 8, 8, 1), np.uint8))
    assert traces.pictures == set()
