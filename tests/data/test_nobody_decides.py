"""No private image decides what becomes of the others: size and colours are asked for, or all have them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dp_diffusers.data.decoding import Decoder
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import DataError


def image(side: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, side, 200 if mode == "L" else (250, 10, 10)).save(stream, "PNG")
    return stream.getvalue()


def folder(root: Path, *pictures: bytes) -> Path:
    root.mkdir()
    for name, picture in zip("abc", pictures):
        (root / f"{name}.png").write_bytes(picture)
    return root


@pytest.mark.parametrize("first", ["L", "RGB"])
def test_guarantee_grey_beside_colour_is_refused_where_nobody_said(tmp_path: Path, first: str) -> None:
    second = "RGB" if first == "L" else "L"
    root = folder(tmp_path / "mixed", image(mode=first), image(mode=second))
    with pytest.raises(DataError, match=r"images of grey \(.*\.png\) and of colour \(") as refused:
        PrivateImages.from_folder(root, labels=None)
    assert "channels=3" in str(refused.value.hint)


@pytest.mark.parametrize("resize", ["crop", "fit"])
def test_guarantee_several_sizes_are_refused_where_nobody_said(tmp_path: Path, resize: Any) -> None:
    root = folder(tmp_path / "mixed", image((16, 8)), image((32, 32)))
    with pytest.raises(DataError, match=r"images of mixed sizes: 16x8 .* and 32x32") as refused:
        PrivateImages.from_folder(root, labels=None, resize=resize)
    assert "size=64" in str(refused.value.hint)


@pytest.mark.parametrize("change", [image((16, 16)), image(mode="L"), image((9, 30), "L")])
def test_guarantee_what_was_asked_for_no_image_changes_for_another(tmp_path: Path, change: bytes) -> None:
    others = [image((24, 12)), image((10, 10))]
    asked: dict[str, Any] = {"size": 8, "channels": 3, "resize": "crop"}
    before = PrivateImages.from_folder(folder(tmp_path / "with", image(), *others), None, **asked)
    after = PrivateImages.from_folder(folder(tmp_path / "other", change, *others), None, **asked)
    np.testing.assert_array_equal(before.images[1:], after.images[1:])


def test_planted_the_first_image_decides(tmp_path: Path) -> None:
    pictures = [("a", image((16, 16), "L")), ("b", image((32, 32)))]
    with_it = Decoder(resize="crop").decode(iter(pictures), 2)
    without = Decoder(resize="crop").decode(iter(pictures[1:]), 1)
    assert (with_it[1].shape, without[0].shape) == ((16, 16, 1), (32, 32, 3))


def test_images_that_are_all_alike_need_no_word(tmp_path: Path) -> None:
    root = folder(tmp_path / "alike", image((16, 8)), image((16, 8)))
    assert PrivateImages.from_folder(root, labels=None, resize="crop").images.shape == (2, 8, 8, 3)
