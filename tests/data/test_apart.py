"""Public images kept apart from private ones: what is refused by place, pixels or bytes, and what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apart_support import SAME, films
from dp_diffusers.data.apart import Shown, require_apart
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.public_images import load_public
from dp_diffusers.errors import DataError, ParameterError


@pytest.mark.parametrize("case", [name for name in SAME if "link" in name or "elsewhere" in name])
def test_guarantee_the_private_place_is_not_opened_to_find_that_it_is_the_same(
    case: str, tmp_path: Path
) -> None:
    films(tmp_path / "x")
    public, private = SAME[case](tmp_path / "x")
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(ParameterError, match=r"public .* is where the private images are"):
        require_apart("public", str(public), str(private), hint="")


def test_what_lies_elsewhere_is_taken(tmp_path: Path) -> None:
    folder = films(tmp_path / "x")
    (loop := tmp_path / "shown").mkdir()
    (loop / "again").symlink_to(loop)
    (tmp_path / "x" / "shown.parquet").touch()
    for public, private in [
        (loop, folder),
        (loop, tmp_path / "x" / "films.csv"),
        (tmp_path / "x" / "shown.parquet", tmp_path / "x" / "films.csv"),  # a table holds its own images
        (tmp_path / "x" / "films.csv", loop),
        ("hf://a/c", "hf://a/b"),
        ("hf://a/b", folder),
        (folder, "hf://a/b"),
    ]:
        require_apart("public", public, private, hint="")


def test_a_manifest_is_said_to_stand_for_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        require_apart("public", tmp_path, tmp_path / "films.csv", hint="give others")
    assert caught.value.hint == "give others; the manifest films.csv stands for its whole folder"


def test_what_is_no_name_of_the_hub_is_refused() -> None:
    with pytest.raises(DataError, match="expected hf://owner/name"):
        require_apart("public", "hf://a", "hf://a/b", hint="")


def shown(path: Path, size: int = 8) -> Shown:
    images = load_public([{"source": "files", "path": str(path), "label": None}], size, 1, 0).images
    return Shown.by(str(path), images)


def written(images: np.ndarray, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for place, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{place}.png")
    return folder


def test_one_private_image_among_public_ones_is_found_by_its_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    mine = PrivateImages.from_folder(written(images[:6], tmp_path / "mine"), labels=None)
    assert shown(written(images[5:], tmp_path / "other")).meets(mine)
    assert not shown(written(images[6:], tmp_path / "public")).meets(mine)
    changed = images[5:6] ^ 1
    assert not shown(written(changed, tmp_path / "changed")).meets(mine)


def test_empty_pictures_are_nobodys(tmp_path: Path) -> None:
    black = np.zeros((2, 8, 8), np.uint8)
    mine = PrivateImages.from_folder(written(black, tmp_path / "mine"), labels=None)
    assert not shown(written(black, tmp_path / "public")).meets(mine)
    black[0, 3, 3] = 1
    mine = PrivateImages.from_folder(written(black, tmp_path / "dotted"), labels=None)
    assert shown(written(black, tmp_path / "public dotted")).meets(mine)


def test_a_file_is_found_by_its_bytes_where_its_pixels_were_padded_or_made_grey(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 40, 3), dtype=np.uint8)
    mine = PrivateImages.from_folder(
        written(images[:2], tmp_path / "mine"), labels=None, size=8, resize="fit"
    )
    assert shown(written(images[1:], tmp_path / "other")).meets(mine)
    assert not shown(written(images[2:], tmp_path / "public")).meets(mine)
