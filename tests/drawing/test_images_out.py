"""Images on disk: what opens them finds the classes that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_diffusers.drawing.images_out import write_images


def test_folders_of_two_classes_of_one_name_are_not_merged(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.arange(3)
    write_images(images, labels, ["crane", "cat", "crane"], tmp_path / "images", format="imagefolder")
    folders = sorted(item.name for item in (tmp_path / "images").iterdir() if item.is_dir())
    assert folders == ["0", "1", "2"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, OSError])
def test_what_is_stopped_leaves_no_folder(tmp_path: Path, raised: type[BaseException]) -> None:
    def stop(_: Path) -> None:
        raise raised

    images = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(raised):
        write_images(images, None, None, tmp_path / "images", format="parquet", check=stop)
    assert not [*tmp_path.iterdir()]
