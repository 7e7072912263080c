"""Printed digits from the fonts that come with matplotlib, varied as the pen strokes are.

Each glyph is kept as a signed distance to its outline, so that slant, warp and weight are one lookup per
pixel. May import numpy, scipy, Pillow and matplotlib's font folder; fonts that lack ten distinct digits are
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dp_diffusers.data.glyph_drawing import HEIGHT, Array, Hand, warped

CANVAS, TALL, OUTLINE = 112, 70, 96
FAMILIES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10", "cmb10", "cmss10", "cmtt10", "cmmi10")


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """All printed digits; template units, as in `glyph_drawing`."""

    digit: NDArray[np.int64]  # [G]
    distance: Array  # [G, CANVAS, CANVAS], > 0 inside
    outline: Array  # [G, OUTLINE, 2], points on the border of the ink
    middle: Array  # [G, 2], centre of mass of the ink


def _ink(font: ImageFont.FreeTypeFont, text: str) -> NDArray[np.bool_] | None:
    left, top, right, bottom = font.getbbox(text)
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, fill=255, font=font)
    box = image.getbbox()
    if box is None:
        return None
    cut = image.crop(box)
    width = min(CANVAS - 16, max(4, round(cut.width * TALL / cut.height)))
    return np.asarray(cut.resize((width, TALL), Image.Resampling.BILINEAR)) > 127


def _font_digits(path: Path) -> list[NDArray[np.bool_]] | None:
    """Ten glyphs [CANVAS, CANVAS], or None when some are missing or alike."""
    font = ImageFont.truetype(str(path), 96)
    glyphs = []
    for digit in "0123456789":
        ink = _ink(font, digit)
        if ink is None:
            return None
        top, left = (CANVAS - ink.shape[0]) // 2, (CANVAS - ink.shape[1]) // 2
        canvas = np.zeros((CANVAS, CANVAS), bool)
        canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        glyphs.append(canvas)
    alike = any((glyphs[a] ^ glyphs[b]).mean() < 0.005 for a in range(10) for b in range(a))
    return None if alike else glyphs


def _to_template(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    scale = HEIGHT / TALL
    x, y = (columns + 0.5 - CANVAS / 2) * scale + 50, (rows + 0.5 - CANVAS / 2) * scale + HEIGHT / 2
    return np.stack([x, y], -1).astype(np.float32)


def _outline(ink: NDArray[np.bool_]) -> Array:
    rows, columns = np.nonzero(ink & ~ndimage.binary_erosion(ink))
    keep = np.linspace(0, len(rows) - 1, OUTLINE).astype(int)
    return _to_template(rows[keep], columns[keep])


@lru_cache(maxsize=1)
def glyph_table() -> Glyphs:
    """Every usable digit of the fonts in matplotlib's folder, in the order of the file names."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [p for p in sorted(folder.glob("*.ttf")) if p.stem.startswith(FAMILIES)]
    found = [glyphs for path in paths if (glyphs := _font_digits(path)) is not None]
    inks = [ink for glyphs in found for ink in glyphs]
    scale = HEIGHT / TALL
    distance = [ndimage.distance_transform_edt(i) - ndimage.distance_transform_edt(~i) for i in inks]
    return Glyphs(
        digit=np.tile(np.arange(10), len(found)),
        distance=np.stack(distance).astype(np.float32) * scale,
        outline=np.stack([_outline(ink) for ink in inks]),
        middle=np.stack([_to_template(*np.nonzero(ink)).mean(0) for ink in inks]),
    )


def choose_glyphs(random: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """A random row of `glyph_table` for each label [N]."""
    fonts = len(glyph_table().digit) // 10
    return random.integers(0, fonts, len(labels)) * 10 + labels


def _lookup(images: Array, which: NDArray[np.int64], x: Array, y: Array) -> Array:
    """Bilinear values of images[which] at canvas places x, y [N, P]."""
    x, y = np.clip(x, 0, CANVAS - 1.001), np.clip(y, 0, CANVAS - 1.001)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, low = x - left, y - top
    row = which[:, None]
    upper = images[row, top, left] * (1 - right) + images[row, top, left + 1] * right
    lower = images[row, top + 1, left] * (1 - right) + images[row, top + 1, left + 1] * right
    return np.asarray(upper * (1 - low) + lower * low, np.float32)


def print_glyphs(
    which: NDArray[np.int64], hand: Hand, scale: Array, offset: Array, bold: Array, edge: Array, grid: int
) -> Array:
    """Pixels [N, grid, grid] in [0, 1]; `scale`, `offset` [N, 2]: hand space to pixels; `bold` [N] pixels."""
    axis = np.arange(grid, dtype=np.float32) + 0.5
    pixels = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2)
    places = ((pixels - offset[:, None]) / scale[:, None]) @ np.linalg.inv(hand.matrix).transpose(0, 2, 1)
    template = warped(places + np.array([50, HEIGHT / 2], np.float32), hand)
    canvas = template * (TALL / HEIGHT) + CANVAS / 2 - 0.5
    distance = _lookup(glyph_table().distance, which, canvas[..., 0], canvas[..., 1])
    inside = distance * scale.mean(1)[:, None] + bold[:, None]
    return np.asarray(np.clip(0.5 + inside * edge[:, None], 0, 1), np.float32).reshape(-1, grid, grid)
