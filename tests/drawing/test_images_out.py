"""Images on disk: what opens them finds the classes that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dp_diffusers.drawing.images_out import write_images


def test_folders_of_two_classes_of_one_name_are_not_merged(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.arange(3)
    write_images(images, labels, ["crane", "cat", "crane"], tmp_path / "images", format="imagefolder")
    folders = sorted(item.name for item in (tmp_path / "images").iterdir() if item.is_dir())
    assert folders == ["0", "1", "2"]
