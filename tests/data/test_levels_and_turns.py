"""What a file says of its picture beside the pixels: which way is up, and what is black and white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.drawing.images_out import png
from dp_diffusers.errors import DataError, ParameterError

ORIENTATION = 0x0112


def stored(picture: Image.Image, root: Path, name: str = "a.tiff", **options: object) -> Path:
    root.mkdir(exist_ok=True)
    picture.save(root / name, **options)  # type: ignore[arg-type]
    return root


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_turned_picture_is_read_the_right_way_up(tmp_path: Path, kind: str) -> None:
    levels = np.zeros((16, 16), np.uint8)
    levels[:8] = 200
    exif = Image.Exif()
    exif[ORIENTATION] = 3  # upside down
    root = stored(Image.fromarray(levels), tmp_path / "x", f"a.{kind}", exif=exif.tobytes())
    images = PrivateImages.from_folder(root, labels=None).images
    assert images[0, 2, 2, 0] < 20 < 180 < images[0, 13, 2, 0]


@pytest.mark.parametrize(
    "values",
    [
        np.full((8, 8), 0.5, np.float32),
        np.full((8, 8), 70_000, np.int32),
        np.full((8, 8), 200, np.int32),
        np.full((8, 8), -1, np.int32),
    ],
)
def test_guarantee_values_of_another_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    root = stored(Image.fromarray(values), tmp_path / "x")
    with pytest.raises(DataError, match=r"another range than 8 or 16 bits: .*a\.tiff") as refused:
        PrivateImages.from_folder(root, labels=None)
    assert "8 or 16 bits" in str(refused.value.hint)


def labelled(path: Path, labels: pa.Array) -> Path:
    pictures = [{"bytes": png(np.zeros((8, 8, 1), np.uint8)), "path": None}] * len(labels)
    pq.write_table(pa.table({"image": pictures, "label": labels}), path)
    return path


def test_whole_numbers_that_pandas_wrote_as_fractions_are_labels(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.parquet", pa.array([0.0, 2.0, 1.0]))
    labels = PrivateImages.from_parquet(file).labels
    assert labels is not None
    assert labels.tolist() == [0, 2, 1]
    with pytest.raises(DataError, match="whole numbers or text, got float"):
        PrivateImages.from_parquet(labelled(tmp_path / "b.parquet", pa.array([0.0, 1.5])))


@pytest.mark.parametrize("classes", [[], ["a", "b", "a"]])
def test_classes_are_distinct_and_some(tmp_path: Path, classes: list[str]) -> None:
    file = labelled(tmp_path / "a.parquet", pa.array([0, 1, 2]))
    with pytest.raises(ParameterError, match="distinct names, at least one"):
        PrivateImages.from_parquet(file, classes=classes)


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = stored(
        Image.fromarray(np.full((8, 8), 90, np.uint8)),
        tmp_path / "x",
        "a.png",
        exif=b"Exif\x00\x00II*\x00garbage",
    )
    assert PrivateImages.from_folder(root, labels=None).images[0, 0, 0, 0] == 90
    assert not recwarn.list


def _colour_that_is_none() -> list[tuple[Image.Image, object]]:
    """White pictures, each with what says that white is transparent."""
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 255, 255, *[0] * 765])
    return [
        (Image.new("L", (8, 8), 255), 255),
        (Image.new("RGB", (8, 8), (255, 255, 255)), (255, 255, 255)),
        (Image.new("1", (8, 8), 1), 1),
        (palette, 0),
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("place", range(4), ids=["grey", "colour", "one bit", "palette"])
def test_a_colour_that_stands_for_transparent_is_black_in_every_mode(
    place: int, channels: int, tmp_path: Path
) -> None:
    """tRNS of PNG; other pixels keep their levels."""
    picture, transparent = _colour_that_is_none()[place]
    if picture.mode != "P":
        picture.putpixel((0, 0), tuple([7] * len(picture.getbands())) if len(picture.getbands()) > 1 else 0)
    root = stored(picture, tmp_path / "x", "a.png", transparency=transparent)
    images = PrivateImages.from_folder(root, labels=None, channels=channels).images
    assert not images[0, 1:].any()
    assert images.shape[-1] == channels


def test_sixteen_bits_with_a_transparent_level_are_black_there(tmp_path: Path) -> None:
    values = np.full((8, 8), 0x8000, np.uint16)
    values[0, 0] = 0x4000
    root = stored(Image.fromarray(values), tmp_path / "x", "a.png", transparency=0x8000)
    levels = PrivateImages.from_folder(root, labels=None).images[0, :, :, 0]
    assert (levels[0, 0], levels[1, 1]) == (0x40, 0)
