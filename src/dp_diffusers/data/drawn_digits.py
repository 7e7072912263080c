"""Labelled digits that look handwritten, drawn from nothing: public data without privacy cost or download.

Guarantees: image i is a pure function of (seed, i, the options), whatever `count` and `workers` are; labels
are balanced within every ten images. May import numpy, scipy, Pillow and matplotlib's fonts. The framings
follow public descriptions: 20x20 box and centre of mass (LeCun et al. 1998); tight 32x32 scans counted in
4x4 blocks (NIST form-based handprint recognition system, Garris et al. 1994).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data import glyph_drawing, glyph_fonts
from dp_diffusers.data.glyph_drawing import Array, Hand
from dp_diffusers.data.public_images import PublicPart
from dp_diffusers.errors import ParameterError, unknown_name, within

Frame = Literal["mnist", "tight"]
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]
BLOCK = 250
"""Images drawn at a time; part of what a seed means, so a change of it changes every image."""
FINE = 4
"""Pixels of the fine grid per scanned pixel."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    size: int
    seed: int
    frame: Frame
    fonts: float
    scan: int | None

    @property
    def grid(self) -> int:
        return self.scan * FINE if self.scan else self.size


def drawn_digits(
    count: int,
    size: int,
    seed: int,
    *,
    frame: Frame = "mnist",
    fonts: float = 0.2,
    workers: int = 1,
    scan: int | None = None,
) -> Images:
    """Draws `count` digits, white ink on black.

    `frame="mnist"`: the digit fits a box of 20/28 of the size, its centre of mass in the middle; `"tight"`:
    it fills the frame from top to bottom. `fonts`: share of printed digits. `scan`: draw on a grid of
    4 x `scan` pixels, average to `scan` x `scan` in 17 levels, then resize to `size`. Returns images uint8
    [count, size, size] and labels int64 [count]. Raises `ParameterError`.
    """
    within(0, 10_000_000, count=count)
    within(4, 512, size=size)
    within(0, 1, fonts=fonts)
    within(1, 1024, workers=workers)
    if frame not in ("mnist", "tight"):
        raise unknown_name("frame", frame, ("mnist", "tight"))
    if scan is not None and not 4 <= scan <= 128:
        raise ParameterError(f"expected scan in [4, 128] or none, got {scan}")
    options = _Options(size=size, seed=seed, frame=frame, fonts=fonts, scan=scan)
    parts = _blocks(options, -(-count // BLOCK), workers)
    if not parts:
        return np.zeros((0, size, size), np.uint8), np.zeros(0, np.int64)
    images, labels = (np.concatenate(part) for part in zip(*parts))
    return images[:count], labels[:count]


def _blocks(options: _Options, blocks: int, workers: int) -> list[Images]:
    if workers == 1 or blocks < 2:
        return [_block(options, block) for block in range(blocks)]
    # spawn: a forked child would inherit the threads of torch, and the keys of a private run
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, blocks), mp_context=context) as pool:
        return list(pool.map(_block, [options] * blocks, range(blocks), chunksize=4))


def _block(options: _Options, block: int) -> Images:
    """All images of one block: every array is drawn whole, so that no image depends on `count`."""
    random = np.random.default_rng([options.seed & 0xFFFFFFFFFFFFFFFF, block])
    labels = np.argsort(random.random((BLOCK // 10, 10)), axis=1).reshape(-1).astype(np.int64)
    printed = random.random(BLOCK) < options.fonts
    hand = glyph_drawing.draw_hand(random, BLOCK)
    half_width = _half_widths(random, options)
    edge = (random.uniform(0.75, 1.7, BLOCK) * max(1.0, 28 / options.grid) ** 0.5).astype(np.float32)
    stretch = random.uniform(0, 0.45, BLOCK)
    finish = random.spawn(1)[0]
    written = _written(random, labels, hand, half_width, edge, stretch, options)
    pixels = np.where(printed[:, None, None], _printed(random, labels, hand, edge, stretch, options), written)
    return _finish(finish, pixels, options), labels


def _half_widths(random: np.random.Generator, options: _Options) -> Array:
    """Half of the pen's width, in pixels: about 1 to 4 pixels wide where a digit is 20 pixels tall."""
    tall = options.grid * (20 / 28 if options.frame == "mnist" else 1)
    return (np.clip(np.exp(random.normal(0.15, 0.29, BLOCK)), 0.5, 2.0) * tall / 20).astype(np.float32)


def _place(
    low: Array, high: Array, middle: Array, margin: Array, stretch: NDArray[np.float64], options: _Options
) -> tuple[Array, Array]:
    """Scale and offset [N, 2] that map hand space to the pixels of the frame."""
    extent = np.maximum(high - low, 1e-3)
    if options.frame == "mnist":
        box = options.grid * 20 / 28 - 2 * margin
        scale = np.repeat((box / extent.max(1))[:, None], 2, axis=1)
        return scale.astype(np.float32), (options.grid / 2 - middle * scale).astype(np.float32)
    room = options.grid - 2 * margin
    tall = room / extent[:, 1]
    # scanners of forms bring digits to 20x32: part of that stretch is copied
    wide = tall * (0.62 * room / (tall * extent[:, 0])) ** stretch
    scale = np.stack([np.minimum(wide, room / extent[:, 0]), tall], -1)
    return scale.astype(np.float32), (options.grid / 2 - (low + high) / 2 * scale).astype(np.float32)


def _written(
    random: np.random.Generator,
    labels: NDArray[np.int64],
    hand: Hand,
    half_width: Array,
    edge: Array,
    stretch: NDArray[np.float64],
    options: _Options,
) -> Array:
    strokes = glyph_drawing.draw_strokes(random, labels, hand)
    far = np.where(strokes.ink > 0, 0, 1e6).astype(np.float32)[..., None]
    low, high = (strokes.dots + far).min(1), (strokes.dots - far).max(1)
    length = glyph_drawing.dot_lengths(strokes.dots, strokes)[..., None]
    middle = ((strokes.dots * length).sum(1) / np.maximum(length.sum(1), 1e-6)).astype(np.float32)
    scale, offset = _place(low, high, middle, half_width, stretch, options)
    dots = strokes.dots * scale[:, None] + offset[:, None]
    return glyph_drawing.brush(dots, strokes, half_width, edge, options.grid)


def _printed(
    random: np.random.Generator,
    labels: NDArray[np.int64],
    hand: Hand,
    edge: Array,
    stretch: NDArray[np.float64],
    options: _Options,
) -> Array:
    if options.fonts == 0:
        return np.zeros((len(labels), options.grid, options.grid), np.float32)
    which = glyph_fonts.choose_glyphs(random, labels)
    bold = (random.normal(0.1, 0.35, len(labels)) * options.grid / 28).astype(np.float32)
    table, turn = glyph_fonts.glyph_table(), hand.matrix.transpose(0, 2, 1)
    origin = np.array([50, glyph_drawing.HEIGHT / 2], np.float32)
    outline = (table.outline[which] - origin) @ turn
    middle: Array = ((table.middle[which] - origin)[:, None] @ turn)[:, 0].astype(np.float32)
    margin: Array = np.maximum(bold, 0).astype(np.float32)
    scale, offset = _place(outline.min(1), outline.max(1), middle, margin, stretch, options)
    return glyph_fonts.print_glyphs(which, hand, scale, offset, bold, edge, options.grid)


def _resize_matrix(source: int, target: int) -> Array:
    """[target, source] bilinear weights, pixel centres aligned as in Pillow and torch."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(source))), np.float32)


def _finish(random: np.random.Generator, pixels: Array, options: _Options) -> NDArray[np.uint8]:
    """Ink level, then the scan, then bytes."""
    level = np.where(random.random(BLOCK) < 0.75, 1.0, random.uniform(0.75, 1.0, BLOCK))
    pixels = pixels * level[:, None, None].astype(np.float32)
    if options.scan:
        blocks = pixels.reshape(BLOCK, options.scan, FINE, options.scan, FINE).mean((2, 4))
        resize = _resize_matrix(options.scan, options.size)
        pixels = resize @ (np.round(blocks * 16) / 16) @ resize.T
    pixels8: NDArray[np.uint8] = np.round(pixels * 255).astype(np.uint8)
    return pixels8


def public_source(settings: Mapping[str, Any], size: int, channels: int, seed: int) -> PublicPart:
    """The drawn digits as a source of `public_images`; keys: count, frame, fonts, scan, workers."""
    images, labels = drawn_digits(
        int(settings.get("count", 60_000)),
        size,
        seed,
        frame=settings.get("frame", "mnist"),
        fonts=float(settings.get("fonts", 0.2)),
        workers=int(settings.get("workers", 1)),
        scan=settings.get("scan"),
    )
    pixels = np.repeat(images[..., None], channels, axis=3)
    return PublicPart(images=pixels, labels=labels, class_names=tuple("0123456789"))
