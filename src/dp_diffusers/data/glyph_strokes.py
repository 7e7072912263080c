"""The ways in which people write the ten digits, compiled to arrays: the table behind `drawn_digits`.

Every family of shapes becomes a linear map from its control points to `DOTS` points along its strokes, so
that one product draws a whole batch. May import numpy and scipy; the shapes lie in `glyph_shapes_low` (0 to
4) and `glyph_shapes_high` (5 to 9).

Notation of a shape: strokes split by `|`, points `x y` split by `,`; x runs over about 0..100, y over 0..140
downwards; `!` marks a corner, every other point is passed smoothly. All shapes of a family have the same
points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from dp_diffusers.data.glyph_shapes_high import EIGHT, FIVE, NINE, SEVEN, SIX
from dp_diffusers.data.glyph_shapes_low import FOUR, ONE, THREE, TWO, ZERO
from dp_diffusers.errors import DPDiffusersError

DIGITS = (ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX, SEVEN, EIGHT, NINE)

DOTS = 128
"""Points along the strokes of a drawn digit."""


@dataclass(frozen=True, kw_only=True)
class StrokeTable:
    """All families of all digits, padded to the same number of shapes S, control points M and strokes."""

    digit: NDArray[np.int64]  # [F]
    weight: NDArray[np.float64]  # [F], sums to 1 for each digit
    shapes: NDArray[np.float32]  # [F, S, M, 2], control points
    shape_count: NDArray[np.int64]  # [F]
    sharp: NDArray[np.float32]  # [F, DOTS, M], control points to dots
    smooth: NDArray[np.float32]  # [F, DOTS, M], the same with rounded corners
    stroke: NDArray[np.int64]  # [F, DOTS], which stroke a dot belongs to
    along: NDArray[np.float32]  # [F, DOTS], place of a dot in its stroke, 0..1


Shape = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]


def parse(text: str) -> Shape:
    """Points [M, 2], corner marks [M] and stroke numbers [M] of a shape."""
    points, corners, strokes = [], [], []
    for number, stroke in enumerate(text.split("|")):
        for point in stroke.split(","):
            x, y = point.replace("!", "").split()
            points.append((float(x), float(y)))
            corners.append(point.endswith("!"))
            strokes.append(number)
    return np.array(points), np.array(corners), np.array(strokes)


def _pieces(corners: NDArray[np.bool_], strokes: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(first point, last point, stroke) of each smooth piece between corners and stroke ends."""
    found = []
    for stroke in np.unique(strokes):
        members = np.flatnonzero(strokes == stroke)
        first, last = int(members[0]), int(members[-1])
        ends = [first, *(int(i) for i in members[1:-1] if corners[i]), last]
        found += [(a, b, int(stroke)) for a, b in pairwise(ends)]
    return found


def _spline(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """[count, len(points)]: points to places on a natural cubic spline with centripetal knots."""
    gaps = np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1)) + 1e-6
    knots = np.concatenate([[0.0], np.cumsum(gaps)])
    identity = np.eye(len(points))
    curve = CubicSpline(knots, identity, bc_type="natural")
    dense = np.linspace(0, knots[-1], 400)
    places = curve(dense) @ points
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    return np.asarray(curve(np.interp(np.linspace(0, length[-1], count), length, dense)))


def _dot_counts(lengths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shares DOTS among pieces in proportion to their lengths, two at least."""
    counts = np.maximum(2, np.floor(lengths / lengths.sum() * DOTS)).astype(np.int64)
    counts[np.argmax(lengths)] += DOTS - counts.sum()
    return np.asarray(counts)


def _rounded(sharp: NDArray[np.float64], stroke: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same map with a moving average along each stroke; the ends stay where they are."""
    result = np.empty_like(sharp)
    for number in np.unique(stroke):
        rows = np.flatnonzero(stroke == number)
        for place, row in enumerate(rows):
            reach = min(8, place, len(rows) - 1 - place)
            result[row] = sharp[row - reach : row + reach + 1].mean(axis=0)
    return result


def compile_family(texts: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    """Arrays of one family; raises when its shapes do not have the same points."""
    parsed = [parse(text) for text in texts]
    points, corners, strokes = parsed[0]
    for other in parsed[1:]:
        if not (np.array_equal(other[1], corners) and np.array_equal(other[2], strokes)):
            raise DPDiffusersError(f"shapes of a family differ in their points: {texts}")
    mean = np.mean([p for p, _, _ in parsed], axis=0)
    pieces = _pieces(corners, strokes)
    spans = np.array([np.linalg.norm(np.diff(mean[a : b + 1], axis=0), axis=1).sum() for a, b, _ in pieces])
    sharp, owner = [], []
    for (a, b, stroke), count in zip(pieces, _dot_counts(spans)):
        rows = np.zeros((count, len(points)))
        rows[:, a : b + 1] = _spline(mean[a : b + 1], int(count))
        sharp.append(rows)
        owner += [stroke] * int(count)
    stroke_of = np.array(owner)
    joined = np.concatenate(sharp)
    along = np.concatenate([np.linspace(0, 1, int(n)) for n in np.bincount(stroke_of)])
    shapes = np.stack([p for p, _, _ in parsed])
    smooth = _rounded(joined, stroke_of)
    return {"shapes": shapes, "sharp": joined, "smooth": smooth, "stroke": stroke_of, "along": along}


@lru_cache(maxsize=1)
def stroke_table() -> StrokeTable:
    """Every family of every digit, compiled once."""
    families = [
        (d, w / sum(f[0] for f in group), texts) for d, group in enumerate(DIGITS) for w, texts in group
    ]
    compiled = [compile_family(texts) for _, _, texts in families]
    shapes = max(len(c["shapes"]) for c in compiled)
    points = max(c["sharp"].shape[1] for c in compiled)
    table = np.zeros((len(families), shapes, points, 2), np.float32)
    maps = np.zeros((2, len(families), DOTS, points), np.float32)
    for row, c in enumerate(compiled):
        count, used = c["shapes"].shape[:2]
        table[row, :count, :used] = c["shapes"]
        maps[0, row, :, :used], maps[1, row, :, :used] = c["sharp"], c["smooth"]
    return StrokeTable(
        digit=np.array([d for d, _, _ in families]),
        weight=np.array([w for _, w, _ in families]),
        shapes=table,
        shape_count=np.array([len(texts) for _, _, texts in families]),
        sharp=maps[0],
        smooth=maps[1],
        stroke=np.stack([c["stroke"] for c in compiled]).astype(np.int64),
        along=np.stack([c["along"] for c in compiled]).astype(np.float32),
    )
