"""How the pictures of a study look: colours, marks, scales; one panel on axes of matplotlib.

Guarantees colours that colour-blind readers can tell apart and that differ in grey (Okabe & Ito 2008; viridis
for numbers, which are in an order), a mark of its own for each line, and no date or name of a machine in a
file. May import matplotlib inside its functions.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dp_diffusers.studying.trade_offs import Line, Panel, Point
from dp_diffusers.whole_files import replacing

WORDS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
NUMBERS: Final = ("#440154", "#2f6c8e", "#27ad81", "#9bbb1f")  # viridis, without its pale end
ONE: Final = "#0072b2"
PUBLIC: Final = "#b03a2e"
FAINT: Final = "#5f5f5f"
WIDTH: Final = 48  # letters above a panel
DASHES: Final = ((1, 2), (4, 2), ())  # of public models (the last is whole); of more than these none is drawn
MARKS: Final = "osD^vP*X"
STYLE: Final = {
    "svg.hashsalt": "dp-diffusers",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def save(figure: Any, path: Path) -> Path:
    """Writes an SVG or a PNG (200 dots an inch), whole or not at all. Returns: `path`."""
    # the layout is the dear part: it is found once for all files
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    stream, kind = io.BytesIO(), path.suffix[1:]
    figure.savefig(stream, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    with replacing(path) as file:
        file.write(stream.getvalue())
    return path


def draw_panel(axes: Any, panel: Panel) -> None:
    """Lines of means, a faint dot for each run, intervals over seeds; public models: lines without marks."""
    places = sorted({point.x for line in panel.lines for point in line.points})
    logarithmic = places[0] > 0 and places[-1] / places[0] >= 3
    if logarithmic:
        axes.set_xscale("log")
    for index, line in enumerate(panel.lines):
        shift = min(0.02, 0.1 / len(panel.lines)) * (index - (len(panel.lines) - 1) / 2)
        _draw_line(
            axes, panel, line, index, [_beside(point.x, places, logarithmic, shift) for point in line.points]
        )
    for (name, mean), dashes in zip(public_lines(panel), DASHES, strict=False):
        axes.axhline(mean, color=PUBLIC, linestyle=(0, dashes), linewidth=1.6, label=name)
    axes.set_xticks(places, _labels(places, logarithmic), minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(
        *(
            _beside(place, places, logarithmic, step)
            for place, step in ((places[0], -0.07), (places[-1], 0.07))
        )
    )
    axes.set_ylim(*limits(panel))
    axes.grid(visible=False, axis="x")
    axes.set(xlabel=panel.axis.title + (" (log scale)" if logarithmic else ""), ylabel=panel.metric.title)
    _draw_legend(axes, panel)
    footnote(axes, _said(panel))


def public_lines(panel: Panel) -> tuple[tuple[str, float], ...]:
    """Name and mean of each public model that is drawn: a few, or none where they would hide the rest."""
    return panel.public if len(panel.public) <= len(DASHES) else ()


def _labels(places: Sequence[float], logarithmic: bool) -> list[str]:
    """The values in words, without those that would lie on the one before."""
    first, last, before = places[0], places[-1], -1.0
    texts = []
    for value in places:
        part = (
            math.log(value / first) / math.log(last / first)
            if logarithmic
            else (value - first) / (last - first)
        )
        shown = part - before >= 0.13
        before = part if shown else before
        texts.append(number(value) if shown else "")
    return texts


def footnote(axes: Any, text: str) -> None:
    """Small print below the title of the axis."""
    place, below = (0, 0), (0, -38)
    lines = textwrap.fill(text, 60)
    axes.annotate(lines, place, below, "axes fraction", "offset points", fontsize=7.5, color=FAINT, va="top")


def _draw_line(axes: Any, panel: Panel, line: Line, index: int, x: Sequence[float]) -> None:
    colour, means = _colour(panel, index), [point.mean for point in line.points]
    for place, point in zip(x, line.points, strict=True):
        if len(point.runs) > 1:
            axes.plot(
                [place] * len(point.runs), point.runs, "o", color=colour, alpha=0.45, markersize=3.2, mew=0
            )
        if point.low is not None and point.high is not None:
            axes.vlines(place, point.low, point.high, color=colour, linewidth=1.3, alpha=0.75)
    mark = MARKS[index % len(MARKS)]
    axes.plot(
        x, means, mark, linestyle="-", color=colour, markersize=6, linewidth=1.7, label=_named(panel, line)
    )


def _draw_legend(axes: Any, panel: Panel) -> None:
    """Above the picture, where it hides nothing; line by line, the public model last."""
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    columns = next(count for count in (4, 3, 2, 1) if count == 1 or _widest(names, count) <= WIDTH)
    order = [place for column in range(columns) for place in range(column, len(names), columns)]
    axes.legend(
        [handles[place] for place in order],
        [names[place] for place in order],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        fontsize=8.5,
        columnspacing=1.0,
        handlelength=1.6,
        handletextpad=0.4,
        borderaxespad=0.2,
    )


def _widest(names: Sequence[str], columns: int) -> int:
    """Letters of the widest line of a legend; a mark and the space around it are as wide as six."""
    return sum(6 + max(map(len, names[place::columns])) for place in range(min(columns, len(names))))


def _named(panel: Panel, line: Line) -> str | None:
    """`rank = 4`, `16`, `64`: the setting's name once, so that a legend fits into a line."""
    if panel.other is None:
        return None
    if isinstance(line.value, str):
        return line.value
    return f"{panel.other.short} = {number(line.value)}" if line is panel.lines[0] else number(line.value)


def _colour(panel: Panel, index: int) -> str:
    if panel.other is None:
        return ONE
    words = any(isinstance(line.value, str) for line in panel.lines)
    if words or len(panel.lines) > len(NUMBERS):
        return WORDS[index % len(WORDS)]
    places = {1: (1,), 2: (0, 2), 3: (0, 1, 2), 4: (0, 1, 2, 3)}[len(panel.lines)]
    return NUMBERS[places[index]]


def _said(panel: Panel) -> str:
    """What a point is, in small print."""
    over = [*panel.over, *([f"{panel.seeds} seeds"] if panel.seeds > 1 else [])]
    points: list[Point] = [point for line in panel.lines for point in line.points]
    text = f"mean over {listed(over)}; faint dots: single runs" if over else "a run each, one seed"
    if panel.seeds == 1 and over:
        text += ", one seed"
    if any(point.low is not None for point in points):
        text += "; bars: 95 % over seeds"
    if over and not panel.balanced:
        text += "; not all combinations have run"
    if panel.public and not public_lines(panel):
        text += f"; {len(panel.public)} public models, not drawn"
    for line in far(panel):
        means = [point.mean for point in line.points]
        ends = dict.fromkeys(f"{mean:.1f}" for mean in (min(means), max(means)))
        name = line.value if isinstance(line.value, str) else number(line.value)
        text += f"; outside the picture: {name} ({' to '.join(ends)})"
    return text


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _beside(x: float, places: Sequence[float], logarithmic: bool, part: float) -> float:
    """A place that is `part` of the axis beside x."""
    if logarithmic:
        return float(x * (places[-1] / places[0]) ** part)
    return x + part * (places[-1] - places[0])


def far(panel: Panel) -> list[Line]:
    """Lines that lie so far from all others that these could not be told apart: they are named, not shown."""
    found = []
    for line in panel.lines:
        others = [point.mean for one in panel.lines if one is not line for point in one.points]
        others += [mean for _, mean in public_lines(panel)]
        own, spread = [point.mean for point in line.points], max(others, default=0) - min(others, default=0)
        apart = max(min(others, default=0) - max(own), min(own) - max(others, default=0))
        if len(panel.lines) > 2 and apart > 5 * max(spread, 1e-9):
            found.append(line)
    return found


def limits(panel: Panel) -> tuple[float, float]:
    """So that the runs fill the picture, and their intervals where these are not far wider."""
    left_out = far(panel)
    points = [point for line in panel.lines if line not in left_out for point in line.points]
    values = [value for point in points for value in point.runs]
    values += [mean for _, mean in public_lines(panel)]
    low, high = min(values), max(values)
    reach = 1.5 * (high - low)
    ends = [end for point in points for end in (point.low, point.high) if end is not None]
    low, high = (
        min([low, *(max(end, low - reach) for end in ends)]),
        max([high, *(min(end, high + reach) for end in ends)]),
    )
    margin = max(0.08 * (high - low), 0.5 * (1.0 - (high - low)), 0.01)  # at least one per cent, or one unit
    floor, ceiling = panel.metric.bounds
    return max(floor, low - margin), min(ceiling, high + margin)


def number(value: float) -> str:
    """As short as it can be said: 0.01, 4, 31k, 1.2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size and not (letter == "k" and abs(value) < 1e4):
            return f"{format(value / size, '.3g')}{letter}"
    return f"{value:,.6g}" if math.isfinite(value) else "∞"
