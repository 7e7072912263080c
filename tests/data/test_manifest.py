"""Manifests: which file a row means, and each thing that can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError
from source_support import Row


def written(root: Path, text: str, name: str = "list.csv") -> Path:
    for shade in (1, 2):
        file = root / "films" / f"{shade}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(Row(name="", shade=shade).encoded)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def test_the_order_is_that_of_the_rows(tmp_path: Path) -> None:
    data = PrivateImages.open(written(tmp_path, "path\nfilms/2.png\nfilms/1.png\n"))
    assert data.images[:, 0, 0, 0].tolist() == [2, 1]


def test_paths_may_be_absolute_and_the_column_that_of_an_image_folder(tmp_path: Path) -> None:
    path = written(tmp_path, f'file_name,person\n"{tmp_path}/films/1.png",p1\n./films/2.png,p1\n')
    data = PrivateImages.from_csv(path, label=None, unit="person")
    assert (data.unit_count, len(data.images)) == (1, 2)


def test_values_with_commas_stand_in_quotes_or_between_tabs(tmp_path: Path) -> None:
    quoted = written(tmp_path, 'path,text\nfilms/1.png,"left, and right"\n')
    tabs = written(tmp_path, "path\ttext\nfilms/1.png\tleft, and right\n", "list.tsv")
    for path in (quoted, tabs):
        assert PrivateImages.open(path, caption_column="text").captions == ("left, and right",)


def test_numbers_may_be_labels(tmp_path: Path) -> None:
    data = PrivateImages.from_csv(written(tmp_path, "path,label\nfilms/1.png,1\nfilms/2.png,0\n"))
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


BAD = [
    ("", r"no image column 'path' among none"),
    ("image,label\nfilms/1.png,1\n", r"no image column 'path' among image, label"),
    ("path;label\nfilms/1.png;1\n", r"no image column 'path' among path;label"),
    ("path,label\n", r"no images in .*list\.csv"),
    ("path,label\nfilms/1.png\n", r"list\.csv:2: expected 2 values, got 1"),
    ("path,label\n,1\n", r"list\.csv:2: no image in column 'path'"),
    ("path,path\nfilms/1.png,1\n", "a column is there twice"),
    ("path\nfilms/1.png\nfilms/1.png\n", r"films/1\.png has two rows"),
    ("path\nfilms/1.png\nfilms/../films/1.png\n", r"films/1\.png and films/\.\./films/1\.png are one file"),
    ("path\nfilms/3.png\n", r"image cannot be read: .*3\.png: No such file"),
    ("path\nfilms\n", r"image cannot be read: .*films: Is a directory"),
    ('path\n"films/1.png\n', r"list\.csv cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[row[1][:24] for row in BAD])
def test_a_bad_manifest_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PrivateImages.open(written(tmp_path, text))
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_bytes_of_a_manifest_that_is_no_text_are_not_repeated(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.write_bytes(b"path,person\nfilms/1.png,M\xfcller\n")
    with pytest.raises(DataError, match=r"not UTF-8 at byte \d+") as caught:
        PrivateImages.open(path)
    assert "ller" not in caught.value.message


def test_a_hint_for_each_cause_of_a_missing_column(tmp_path: Path) -> None:
    for header, hint in (
        ("path;label", "separate the columns by commas"),
        ("filename,label", "path or file_name"),
    ):
        with pytest.raises(DataError) as caught:
            PrivateImages.from_csv(written(tmp_path, f"{header}\nfilms/1.png,1\n"))
        assert hint in str(caught.value.hint)


def test_guarantee_a_link_gives_no_image_a_second_owner(tmp_path: Path) -> None:
    path = written(tmp_path, "path,person\nfilms/1.png,p1\nagain.png,p2\n")
    (tmp_path / "again.png").symlink_to(tmp_path / "films" / "1.png")
    with pytest.raises(DataError, match=r"films/1\.png and again\.png are one file"):
        PrivateImages.from_csv(path, label=None, unit="person")
