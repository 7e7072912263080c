"""What a label means does not depend on the kind of file it stands in, whole numbers for names included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.data.labels import label_numbers
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.sources import RawImages
from dp_diffusers.drawing.images_out import png, write_parquet
from dp_diffusers.errors import DataError

LABELS = np.arange(6) % 2
PIXELS = (200 * LABELS[:, None, None, None] * np.ones((1, 8, 8, 1))).astype(np.uint8)  # 1 is bright


def _unnamed(root: Path) -> Path:
    write_parquet(PIXELS, LABELS, None, root / "plain.parquet")
    return root / "plain.parquet"


def _named(root: Path) -> Path:
    write_parquet(PIXELS, LABELS, ("0", "1"), root / "named.parquet")
    return root / "named.parquet"


def _renamed(root: Path) -> Path:
    """The file has other names: the numbers are those of its column."""
    write_parquet(PIXELS, LABELS, ("dark", "bright"), root / "other.parquet")
    return root / "other.parquet"


def _manifest(root: Path) -> Path:
    rows = ["path,label"]
    for place, (image, label) in enumerate(zip(PIXELS, LABELS)):
        (root / f"{place}.png").write_bytes(png(image))
        rows.append(f"{place}.png,{label}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return root / "list.csv"


def _folders(root: Path) -> Path:
    for place, (image, label) in enumerate(zip(PIXELS, LABELS)):
        (root / str(label)).mkdir(exist_ok=True)
        (root / str(label) / f"{place}.png").write_bytes(png(image))
    return root


@pytest.mark.parametrize("write", [_unnamed, _named, _renamed, _manifest, _folders])
def test_classes_that_are_whole_numbers_meet_labels_by_number(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = PrivateImages.open(write(tmp_path), label="auto", classes=("1", "0"))
    assert data.class_names == ("1", "0")
    assert data.labels is not None
    assert (data.images[data.labels == 0] == 200).all(), "the first class is called 1, and is bright"
    assert (data.images[data.labels == 1] == 0).all()


def _of(labels: list[int]) -> RawImages:
    return RawImages(count=len(labels), encoded=lambda: iter(()), labels=labels)


def test_numbers_need_not_begin_at_0_and_any_other_is_refused() -> None:
    found, names = label_numbers(_of([1, -1, 7]), ("7", "-1", "01"))
    assert found is not None
    assert (found.tolist(), names) == ([2, 1, 0], ("7", "-1", "01"))
    with pytest.raises(DataError, match=r"the label in row 1 .counted from 0. is not in data\.classes"):
        label_numbers(_of([7, 0]), ("7", "1"))


def test_words_among_the_classes_leave_numbers_their_positions() -> None:
    for classes in (("1", "cat"), ("1", "01")):
        found, _ = label_numbers(_of([0, 1, 1]), classes)
        assert found is not None
        assert found.tolist() == [0, 1, 1]
