"""The picture of a study: the accuracy of each cell, its seeds and their interval.

Guarantees a file of vectors without a date or a machine's name in it. May import matplotlib inside its
function. The dotted line is the public model as it is (ε = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dp_diffusers.studying.results import CellRow

MEAN, SEED, PUBLIC = "#4c72b0", "#8c8c8c", "#c44e52"


def draw(rows: Sequence[CellRow], path: Path) -> Path:
    """Writes the picture (SVG or PNG by its name). Returns: `path`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "dp-diffusers", "font.size": 9}):
        figure = Figure(figsize=(6.4, 0.9 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        for place, row in zip(places, rows):
            reach = (
                None if row.low is None or row.high is None else [[row.mean - row.low], [row.high - row.mean]]
            )
            axes.errorbar(row.mean, place, xerr=reach, fmt="o", color=MEAN, capsize=3, markersize=5)
            axes.plot(row.accuracies, [place] * len(row.accuracies), "|", color=SEED, markersize=9)
        for row in rows:
            if row.epsilon == 0:
                axes.axvline(row.mean, color=PUBLIC, linestyle=":", linewidth=1)
        axes.set_yticks(list(places), [_label(row) for row in rows])
        axes.set_xlim(*_limits(rows))
        axes.set(
            xlabel="accuracy on held-out real images (%), 95 % interval over seeds",
            ylim=(len(rows) - 0.5, -0.5),
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _label(row: CellRow) -> str:
    return f"{row.cell}, ε = {'∞' if row.epsilon is None else format(row.epsilon, '.3g')}"


def _limits(rows: Sequence[CellRow]) -> tuple[float, float]:
    """So that the seeds fill the picture: the interval of two seeds may be far wider than they are apart."""
    values = [value for row in rows for value in row.accuracies]
    low, high = min(values), max(values)
    margin = max(2.0, 0.6 * (high - low))
    return max(0.0, low - margin), min(100.0, high + margin)
