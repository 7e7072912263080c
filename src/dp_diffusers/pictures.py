"""Pictures that people look at: grids of images.

Guarantee: it draws what it is given and nothing else; callers give it synthetic or public images only, except
for the sheet of a near-copy check, which stays in the safe. May import numpy and PIL.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image


def grid(images: np.ndarray, *, columns: int, gap: int = 1) -> np.ndarray:
    """uint8 `[N, H, W, C]` laid out in rows of `columns`, as one uint8 `[H', W', C]` picture."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8)
    for index, image in enumerate(images):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_grid(images: np.ndarray, path: Path, *, columns: int, zoom: int = 2) -> None:
    """Writes a PNG grid, each pixel shown as `zoom` × `zoom`."""
    sheet = grid(images, columns=columns)
    sheet = sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(path, optimize=True)
