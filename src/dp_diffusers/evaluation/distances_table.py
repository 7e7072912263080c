"""The table of distances for a terminal.

Guarantees that the extractor stands in its head. May import the standard library alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_diffusers.evaluation.distances import Distances

JOINED = ("fid", "kid", "kid_standard_error")  # shown in two columns


def table(distances: Sequence[Distances]) -> list[str]:
    """The lines, none without distances."""
    if not distances:
        return []
    first = distances[0]
    heads = [first.frechet_name, "KID x 1000", *(name for name in first.figures if name not in JOINED)]
    cells = [_cells(one) for one in distances]
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(len(heads))]
    names = max(len(one.of) for one in distances)
    lines = [f"distances to {first.reference} reference images, by {first.features}:"]
    for name, row in zip(["", *(one.of for one in distances)], [heads, *cells], strict=True):
        line = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {name:<{names}}  {line}")
    return lines


def _cells(one: Distances) -> list[str]:
    figures = dict(one.figures)
    fid, kid, error = (figures.pop(name) for name in JOINED)
    rest = [f"{value:.3f}" for value in figures.values()]
    return [f"{fid:.4g}", f"{1000 * kid:.3f} ± {1000 * error:.3f}", *rest]
