"""Draws batches of digits with a pen: shapes of `glyph_strokes`, varied as hands vary, turned into pixels.

Every number of an image comes from its own row of the draws, so one image never depends on another. May
import numpy; the pixel rule is our own (a Gaussian brush, whose separability makes it a matrix product).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.glyph_strokes import DOTS, stroke_table

Array = NDArray[np.float32]
HEIGHT = 140.0
"""Height of a template; its middle lies at (50, 70)."""


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """A batch of drawn digits, before framing; lengths in template units."""

    dots: Array  # [N, DOTS, 2]
    ink: Array  # [N, DOTS], share of a dot's neighbourhood that the pen touches, 0..1
    pressure: Array  # [N, DOTS], factor on the pen's half-width
    stroke: NDArray[np.int64]  # [N, DOTS]


@dataclass(frozen=True, kw_only=True)
class Hand:
    """How the writers of a batch slant, turn and squeeze: shared by pen strokes and printed glyphs."""

    matrix: Array  # [N, 2, 2]
    wave: Array  # [N, 3, 5], (amplitude x, amplitude y, frequency x, frequency y, phase) of three waves
    taper: Array  # [N, 2], growth of the width downwards, shift of the waist
    care: Array  # [N], how carelessly each writes: about 1, seldom above 2


def draw_hand(random: np.random.Generator, count: int) -> Hand:
    """Random slant (mostly to the right), rotation within 12 degrees, width, and a slow warp."""
    care = np.clip(random.gamma(4, 0.27, count), 0.25, 2.6)
    slant = np.clip(random.normal(0.14, 0.23, count), -0.4, 0.75)
    turn = np.clip(random.normal(0, 0.08, count), -0.21, 0.21)
    width = np.exp(np.clip(random.normal(0, 0.24, count), -0.6, 0.55))
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    shear = np.zeros((count, 2, 2))
    shear[:, 0, 0], shear[:, 0, 1], shear[:, 1, 1] = width, -slant, 1
    wave = random.normal(size=(count, 3, 5)) * np.array([2.4, 2.4, 0.022, 0.018, 0.0])
    wave[:, :, :2] *= care[:, None, None]
    wave[:, :, 4] = random.uniform(0, 2 * np.pi, (count, 3))
    taper = random.normal(size=(count, 2)) * np.array([0.1, 5.0]) * care[:, None]
    return Hand(
        matrix=(rotation @ shear).astype(np.float32),
        wave=wave.astype(np.float32),
        taper=np.clip(taper, [-0.25, -13], [0.25, 13]).astype(np.float32),
        care=care.astype(np.float32),
    )


def warped(points: Array, hand: Hand) -> Array:
    """Template points [N, P, 2] after the slow warp of each hand, about the origin (0, 0)."""
    across, down = points[..., 0] - 50, points[..., 1] - HEIGHT / 2
    x = across * (1 + hand.taper[:, :1] * down / 70)
    y = down + hand.taper[:, 1:] * (1 - (down / 70) ** 2)
    wave = hand.wave[..., None]
    angle = wave[:, :, 2] * x[:, None] + wave[:, :, 3] * y[:, None] + wave[:, :, 4]
    bend = np.sin(angle)
    x = x + (wave[:, :, 0] * bend).sum(1)
    y = y + (wave[:, :, 1] * np.roll(bend, 1, axis=1)).sum(1)
    return np.stack([x, y], -1)


def _families(random: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    table = stroke_table()
    chosen = np.empty(len(labels), np.int64)
    uniform = random.random(len(labels))
    for digit in range(10):
        rows, here = np.flatnonzero(table.digit == digit), labels == digit
        edges = np.cumsum(table.weight[rows])
        chosen[here] = rows[np.minimum(np.searchsorted(edges, uniform[here]), len(rows) - 1)]
    return chosen


def _control_points(random: np.random.Generator, family: NDArray[np.int64], care: Array) -> Array:
    """[N, M, 2]: a blend of the family's shapes, a little beyond them at times, each point shaken."""
    table = stroke_table()
    shapes = table.shapes[family]
    count = table.shape_count[family][:, None]
    blend = random.gamma(0.55, size=shapes.shape[:2]) + 1e-6
    blend *= np.arange(shapes.shape[1]) < count
    blend /= blend.sum(1, keepdims=True)
    blend = np.where(np.arange(shapes.shape[1]) < count, 1 / count + 1.15 * (blend - 1 / count), 0)
    shake = 3.0 * care[:, None, None] * random.normal(size=(*shapes.shape[::2], 2))
    return np.asarray(np.einsum("ns,nsmk->nmk", blend, shapes) + shake[:, : shapes.shape[2]], np.float32)


def _hooks(random: np.random.Generator, along: Array, care: Array) -> Array:
    """[N, DOTS, 2] by which strokes bend near their ends, as the pen lands and leaves."""
    bend = 4.0 * care[:, None] * random.normal(size=(2, 2, len(along), 1))
    reach = random.uniform(0.06, 0.2, (2, len(along), 1))
    start = np.maximum(0, 1 - along / reach[0])[..., None] ** 2
    end = np.maximum(0, 1 - (1 - along) / reach[1])[..., None] ** 2
    moved = start * bend[0].transpose(1, 2, 0) + end * bend[1].transpose(1, 2, 0)
    return np.asarray(moved, np.float32)


def _smooth_noise(random: np.random.Generator, along: Array) -> Array:
    """[N, DOTS] slow noise of about unit size along the strokes."""
    phase = random.uniform(0, 2 * np.pi, (3, len(along), 1))
    size = random.normal(0, 0.8, (3, len(along), 1))
    speed = random.uniform(1.5, 9, (3, len(along), 1))
    return np.asarray((size * np.sin(speed * along + phase)).sum(0), np.float32)


def _pen(random: np.random.Generator, along: Array) -> tuple[Array, Array]:
    """Ink and pressure along the strokes: ends cut short, thin or thick ends, a rare gap."""
    count = len(along)
    cut = np.maximum(0, random.normal(0.0, 0.025, (2, count, 1)))
    ink = (along >= cut[0]) & (along <= 1 - cut[1])
    hole = random.uniform(0.1, 0.9, (count, 1))
    reach = np.where(random.random((count, 1)) < 0.05, random.uniform(0.01, 0.035, (count, 1)), 0)
    ink &= np.abs(along - hole) >= reach
    ends = random.normal(0, 0.14, (2, count, 1))
    pressure = 0.13 * _smooth_noise(random, along)
    pressure += ends[0] * np.exp(-along / 0.12) + ends[1] * np.exp((along - 1) / 0.12)
    return ink.astype(np.float32), np.exp(np.clip(pressure, -0.5, 0.4)).astype(np.float32)


def draw_strokes(random: np.random.Generator, labels: NDArray[np.int64], hand: Hand) -> Strokes:
    """Strokes of one digit for each label [N], written by the hands given."""
    table = stroke_table()
    family = _families(random, labels)
    control = _control_points(random, family, hand.care)
    rounding = random.uniform(0, 1, (len(labels), 1, 1)).astype(np.float32)
    dots = (1 - rounding) * (table.sharp[family] @ control) + rounding * (table.smooth[family] @ control)
    dots += _hooks(random, table.along[family], hand.care)
    offsets = (2.5 * hand.care[:, None, None] * random.normal(size=(len(labels), 4, 2))).astype(np.float32)
    dots += np.take_along_axis(offsets, table.stroke[family][..., None], axis=1)
    dots = warped(dots, hand) @ hand.matrix.transpose(0, 2, 1)
    ink, pressure = _pen(random, table.along[family])
    return Strokes(dots=dots, ink=ink, pressure=pressure, stroke=table.stroke[family])


def dot_lengths(dots: Array, strokes: Strokes) -> Array:
    """[N, DOTS]: length of line that each dot stands for, in the unit of `dots` [N, DOTS, 2]."""
    joined = strokes.stroke[:, 1:] == strokes.stroke[:, :-1]
    gap = np.where(joined, np.linalg.norm(np.diff(dots, axis=1), axis=2), 0)
    length = np.zeros((len(dots), DOTS), np.float32)
    length[:, 1:] += gap / 2
    length[:, :-1] += gap / 2
    return length * strokes.ink


def brush(dots: Array, strokes: Strokes, half_width: Array, edge: Array, grid: int) -> Array:
    """Pixels [N, grid, grid] in [0, 1] of strokes at `dots` (pixel units, pixel i spans i..i+1).

    A line of Gaussian dots of width s has the level r exp(-d²/2s²) at distance d; where that passes 1 is the
    edge of the ink, so r = exp(h²/2s²) gives the half-width h. `edge` [N]: steepness of the edge per pixel.
    """
    spread = np.maximum(0.6 * half_width, 0.45)[:, None]
    local = half_width[:, None] * strokes.pressure
    weight = dot_lengths(dots, strokes) * np.exp(local**2 / (2 * spread**2)) / (spread * np.sqrt(2 * np.pi))
    centres = np.arange(grid, dtype=np.float32) + 0.5
    near = np.exp(-((dots[..., None] - centres) ** 2) / (2 * spread[..., None, None] ** 2))
    level = near[:, :, 1].transpose(0, 2, 1) @ (near[:, :, 0] * weight[..., None])
    inside = (spread**2 / half_width[:, None])[..., None] * np.log(level + 1e-9)
    return np.asarray(np.clip(0.5 + inside * edge[:, None, None], 0, 1), np.float32)
