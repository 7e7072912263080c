"""The picture of a benchmark: a panel for each strategy and number of noise draws, an engine a mark.

Guarantees no date and no name of a machine's user in the file, and marks that differ without colour. May
import matplotlib inside its functions. Ratios are on a log scale, beside lines at 1 and at the bar of 1.05.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dp_diffusers.benching.case import ENGINES, OURS, PLAIN
from dp_diffusers.benching.results import BenchResult, Row
from dp_diffusers.studying.drawing import FAINT, MARKS, PUBLIC, STYLE, WORDS, save

BAR: Final = 1.05
_INCH_A_CASE: Final = 0.62


def draw(result: BenchResult, path: Path) -> Path:
    """Writes the picture (SVG or PNG by its name). Returns: `path`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = _panels(result.rows)
    heights = [len(cases) for _, cases in panels] or [1]
    with rc_context({**STYLE, "font.size": 9}):
        figure = Figure(
            figsize=(7.2, 1.3 + _INCH_A_CASE * sum(heights) + 0.45 * len(heights)), layout="constrained"
        )
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for place, (title, cases) in zip(axes, panels):
            _draw_panel(place, title, cases)
        _finish(figure, list(axes), result)
        return save(figure, path)


def _panels(rows: Sequence[Row]) -> list[tuple[str, dict[str, list[Row]]]]:
    """By strategy, rows of a unit and precision: the timed rows of each model, the plain step left out."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.time_ratio is not None and row.engine != PLAIN:
            title = f"{row.strategy}, {row.units} units x {row.noise_draws}, {row.dtype}"
            found.setdefault(title, {}).setdefault(row.family, []).append(row)
    return list(found.items())


def _draw_panel(axes: Any, title: str, cases: dict[str, list[Row]]) -> None:
    others = [name for name in ENGINES if name != PLAIN]
    for line, rows in enumerate(cases.values()):
        for row in rows:
            index = others.index(row.engine)
            height = line + 0.72 * ((index + 0.5) / len(others) - 0.5)
            axes.plot([row.low, row.high], [height] * 2, color=WORDS[index], linewidth=1.2)
            filled = WORDS[index] if row.right is not False else "white"
            axes.plot(
                row.time_ratio, height, MARKS[index], color=WORDS[index], markersize=5, markerfacecolor=filled
            )
    axes.axvline(1.0, color=FAINT, linewidth=0.9)
    axes.axvline(BAR, color=PUBLIC, linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(cases)), [name.replace("_", " ") for name in cases])
    axes.set_ylim(len(cases) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.set_title(title, loc="left", fontsize=9)


def _finish(figure: Any, axes: Sequence[Any], result: BenchResult) -> None:
    """The shared axis, the key, and the machine."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, NullLocator

    others = [name for name in ENGINES if name != PLAIN]
    used = [name for name in others if any(row.engine == name and row.time_ratio for row in result.rows)]
    marks = [
        Line2D([], [], color=WORDS[place], marker=MARKS[place], linestyle="", label=name)
        for place, name in enumerate(others)
        if name in used
    ]
    if used and any(row.right is False for row in result.rows):
        marks.append(
            Line2D([], [], color=FAINT, marker="o", mfc="white", linestyle="", label="wrong gradient")
        )
    figure.legend(handles=marks, loc="outside upper center", ncols=4)
    last = axes[-1]
    last.set_xscale("log")
    ratios = [row.high for row in result.rows if row.high is not None] + [1.5]
    steps = [
        value
        for value in (0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
        if value < 1.2 * max(ratios)
    ]
    last.set_xticks(steps)
    last.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    last.xaxis.set_minor_locator(NullLocator())
    last.set_xlabel(f"time of a step, in plain steps ({result.device}); dotted: {BAR}, the bar of {OURS}")
