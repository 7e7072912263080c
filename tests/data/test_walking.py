"""Which files of a folder are its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.data.parquet import parquet_files
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.walking import Member, by_class, flat, holds_dicom, is_dicom, is_picture
from dp_diffusers.errors import DataError
from source_support import Row, dicom_file, parquet

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
