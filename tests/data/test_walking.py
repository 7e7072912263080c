"""Which files of a folder are its images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.data.parquet import parquet_files
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.walking import Member, by_class, flat, holds_dicom, is_dicom, is_picture
from dp_diffusers.errors import DataError
from source_support import Row, dicom_file, parquet, saved

HIDDEN = (".ipynb_checkpoints/copy", "class 0/.thumbnails/small", "class 0/.old/deep/x", ".copy")


def _folder(root: Path, suffix: str) -> Path:
    """Two files in two classes, and the same in places that nobody sees."""
    for name in ("class 0/a", "class 1/b", *HIDDEN):
        file = root / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".png":
            file.write_bytes(Row(name="").encoded)
        else:
            dicom_file(file, np.zeros((8, 8), np.uint8))
    return root


@pytest.mark.parametrize(("suffix", "belongs"), [(".png", is_picture), (".dcm", is_dicom)])
def test_guarantee_copies_in_hidden_folders_are_no_images(
    suffix: str, belongs: Member, tmp_path: Path
) -> None:
    hidden = tmp_path / ".home"  # the source itself may lie in one
    folder = _folder(hidden, suffix)
    assert [file.stem for file, _ in flat(folder, belongs)] == ["a", "b"]
    found = [(file.stem, name) for file, name in by_class(folder, belongs)]
    assert found == [("a", "class 0"), ("b", "class 1")]
    assert PrivateImages.open(folder, label="folder").unit_count == 2


def test_a_hidden_file_does_not_make_a_folder_one_of_dicom(tmp_path: Path) -> None:
    dicom_file(tmp_path / ".cache" / "a.dcm", np.zeros((8, 8), np.uint8))
    assert not holds_dicom(tmp_path)


def test_a_table_has_no_rows_for_hidden_images(tmp_path: Path) -> None:
    folder = _folder(tmp_path, ".png")
    (folder / "metadata.csv").write_text("file_name,person\nclass 0/a.png,p1\nclass 1/b.png,p1\n")
    assert PrivateImages.open(folder, label=None, unit="person").unit_count == 1


def test_copies_in_hidden_folders_are_no_parquet_files(tmp_path: Path) -> None:
    folder = tmp_path / ".home"
    for place in (folder, folder / ".copies"):
        place.mkdir()
        parquet(place, [Row(name="a.png")])
    assert [file.parent for file in parquet_files(folder)] == [folder]


LINKS = [
    ("class 0/a", "class 0/z"),  # beside what it leads to
    ("class 0/a", "class 1/z"),  # in another class
    (".store/x", "class 0/z"),  # to what is hidden: twice, below
]


@pytest.mark.parametrize(("label", "kind"), [(None, ".png"), ("folder", ".png"), (None, ".dcm")])
@pytest.mark.parametrize(("end", "link"), LINKS)
def test_guarantee_a_link_in_a_folder_is_no_second_image(
    end: str, link: str, label: str | None, kind: str, tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "scans", kind)
    (folder / ".store").mkdir()
    (folder / "class 0" / f"a{kind}").replace(folder / ".store" / f"x{kind}")
    (folder / "class 0" / f"a{kind}").symlink_to(folder / ".store" / f"x{kind}")
    assert PrivateImages.open(folder, label=label).unit_count == 2, "a link alone is an image as any"
    (folder / f"{link}{kind}").symlink_to(folder / f"{end}{kind}")
    with pytest.raises(DataError, match=rf"a\{kind} and class \d/z\{kind} are one file") as caught:
        PrivateImages.open(folder, label=label)
    assert caught.value.hint == "an image has one owner: keep one of the two"


def test_guarantee_two_links_to_a_class_folder_are_no_two_classes(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "scans", ".png")
    (folder / "class 2").symlink_to(folder / "class 1", target_is_directory=True)
    with pytest.raises(DataError, match=r"class 1/b\.png and class 2/b\.png are one file"):
        PrivateImages.open(folder, label="folder")


def test_a_folder_of_links_to_distinct_files_is_read_as_these_are(tmp_path: Path) -> None:
    folder, links = _folder(tmp_path / "scans", ".png"), tmp_path / "links"
    links.mkdir()
    for number, file in enumerate(folder.glob("class*/*.png")):
        (links / f"{number}.png").symlink_to(file)
    assert PrivateImages.open(links, label=None).unit_count == 2


def test_guarantee_a_link_is_no_second_parquet_file(tmp_path: Path) -> None:
    table = Path(parquet(tmp_path, [Row(name="a.png"), Row(name="b.png")]))
    assert PrivateImages.open(tmp_path, label=None).unit_count == 2
    (tmp_path / "z.parquet").symlink_to(table)
    with pytest.raises(DataError, match=r"images\.parquet and z\.parquet are one file"):
        PrivateImages.open(tmp_path, label=None)
    links = tmp_path / "links"
    links.mkdir()
    (links / "y.parquet").symlink_to(table)
    assert PrivateImages.open(links, label=None).unit_count == 2
    (links / "z.parquet").symlink_to(table)
    with pytest.raises(DataError, match=r"y\.parquet and z\.parquet are one file"):
        PrivateImages.open(links, label=None)


@pytest.mark.parametrize("again", ["z.arrow", "data-00000-of-00002.arrow"])
def test_guarantee_no_arrow_file_is_read_twice(again: str, tmp_path: Path) -> None:
    folder = Path(saved(tmp_path, [Row(name="a.png"), Row(name="b.png")]))
    (folder / "z.arrow").symlink_to(folder / "data-00000-of-00002.arrow")
    assert PrivateImages.open(folder, label=None).unit_count == 2, "state.json says what is read"
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].append({"filename": again})
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=rf"data-00000-of-00002\.arrow and {again} are one file"):
        PrivateImages.open(folder, label=None)


@pytest.mark.parametrize("place", [".", "data"])
def test_parquet_beside_pictures_is_refused_as_either_may_be_a_stray(place: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "scans", ".png")
    (folder / place).mkdir(exist_ok=True)
    parquet(folder / place, [Row(name="z.png")])
    (table,) = (folder / place).glob("*.parquet")
    with pytest.raises(DataError, match="parquet files and pictures"):
        PrivateImages.open(folder, label=None)
    assert PrivateImages.open(table, label=None).unit_count == 1
    table.unlink()
    assert PrivateImages.open(folder, label=None).unit_count == 2
