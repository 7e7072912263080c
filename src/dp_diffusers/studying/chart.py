"""The picture of a study's cells: the accuracy of each, its seeds and their interval.

Guarantees a file of vectors without a date or a machine's name in it. May import matplotlib inside its
function. The dotted line is the public model as it is (ε = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dp_diffusers.studying.drawing import FAINT, ONE, PUBLIC, STYLE, save
from dp_diffusers.studying.results import BENCHMARK, CellRow
from dp_diffusers.studying.trade_offs import short_name

MANY: Final = 12  # cells, beyond which they stand closer together


def draw(rows: Sequence[CellRow], path: Path, tested_on: str = BENCHMARK.tested_on) -> Path:
    """Writes the picture (SVG or PNG by its name). tested_on: whose images, in words. Returns: `path`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    line = 0.36 if len(rows) <= MANY else 0.23
    with rc_context({**STYLE, "font.size": 9 if len(rows) <= MANY else 8}):
        figure = Figure(figsize=(6.4, 0.9 + line * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        for place, row in zip(places, rows):
            reach = (
                None if row.low is None or row.high is None else [[row.mean - row.low], [row.high - row.mean]]
            )
            colour = PUBLIC if row.epsilon == 0 else ONE
            axes.errorbar(row.mean, place, xerr=reach, fmt="o", color=colour, capsize=3, markersize=5)
            if len(row.accuracies) > 1:
                axes.plot(row.accuracies, [place] * len(row.accuracies), "|", color=FAINT, markersize=9)
        for row in rows:
            if row.epsilon == 0:
                axes.axvline(row.mean, color=PUBLIC, linestyle=":", linewidth=1)
        axes.set_yticks(list(places), [_label(row) for row in rows])
        axes.grid(visible=False, axis="y")
        axes.set_xlim(*_limits(rows))
        interval = ", 95 % interval over seeds" if any(row.low is not None for row in rows) else ""
        axes.set(
            xlabel=f"accuracy on {tested_on} (%){interval}",
            ylim=(len(rows) - 0.5, -0.5),
        )
        save(figure, path)
    return path


def _label(row: CellRow) -> str:
    """The cell's name in words, its ε at the end."""
    name, *point = row.cell.split("+")
    pairs = [part.partition("=") for part in point]
    kept = [f"{short_name(key)} {value}" for key, _, value in pairs if key != "epsilon"]
    return ", ".join([name, *kept, f"ε = {'∞' if row.epsilon is None else format(row.epsilon, '.3g')}"])


def _limits(rows: Sequence[CellRow]) -> tuple[float, float]:
    """So that the seeds fill the picture: the interval of two seeds may be far wider than they are apart."""
    values = [value for row in rows for value in row.accuracies]
    low, high = min(values), max(values)
    margin = max(1.0 if len(rows) > MANY else 2.0, 0.6 * (high - low))
    return max(0.0, low - margin), min(100.0, high + margin)
