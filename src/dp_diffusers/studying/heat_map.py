"""The heat map of a study: the two most important keys of its grid, and the mean of all runs at each point.

Guarantees that a number stands in every field, so that no colour has to be read; what has not run is empty.
May import numpy; matplotlib's axes are given. Colours of cividis (Nuñez et al. 2018), for all eyes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.studying.drawing import footnote, number
from dp_diffusers.studying.trade_offs import EPSILON, LINES, SAME, Metric, Rows, short_name


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatMap:
    """means: float64 [rows, columns], NaN where no run is; over: what they are means over, in words."""

    metric: Metric
    keys: tuple[str, str]
    down: tuple[str, ...]
    across: tuple[str, ...]
    means: NDArray[np.float64]
    over: tuple[str, ...]
    seeds: int


def heat_map_of(rows: Rows, metric: Metric, grid: Sequence[str]) -> HeatMap | None:
    """Of the runs with the metric; None for a grid of fewer than two keys with two values or more."""
    trained = [row for row in rows if row["epsilon"] != 0 and row[metric.column] is not None]
    known = [key for key in sorted(grid, key=_importance) if len(_values(key, trained)) > 1]
    if len(known) < 2:
        return None
    across, down = known[:2]
    columns, lines = _values(across, trained), _values(down, trained)
    means = np.full((len(lines), len(columns)), np.nan)
    for place in np.ndindex(means.shape):
        here = [
            row[metric.column]
            for row in trained
            if (_value(row, down), _value(row, across)) == (lines[place[0]], columns[place[1]])
        ]
        means[place] = np.mean(here) if here else np.nan
    return HeatMap(
        metric=metric,
        keys=(down, across),
        down=tuple(map(_shown, lines)),
        across=tuple(map(_shown, columns)),
        means=means,
        over=tuple(map(short_name, known[2:])),
        seeds=len({row["seed"] for row in trained}),
    )


def _importance(key: str) -> int:
    columns = [EPSILON.column, *(axis.column for axis in LINES)]
    column = SAME.get(key, key)
    return columns.index(column) if column in columns else len(columns)


def _value(row: Any, key: str) -> Any:
    return row.get(key)


def _values(key: str, rows: Rows) -> list[Any]:
    found = dict.fromkeys(value for row in rows if (value := _value(row, key)) is not None)
    numbers = all(isinstance(value, int | float) for value in found)
    return sorted(found) if numbers else list(found)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else number(value)
    try:
        listed = json.loads(text) if text.startswith("[") else None
    except ValueError:
        return text
    return text if listed is None else ", ".join(map(str, listed))


def draw_heat_map(axes: Any, found: HeatMap) -> None:
    """Fields with their numbers; the first key is across."""
    picture = axes.imshow(
        np.ma.masked_invalid(found.means),
        cmap="cividis_r" if found.metric.lower_is_better else "cividis",
        aspect="auto",
    )
    axes.set_xticks(range(len(found.across)), found.across)
    axes.set_yticks(range(len(found.down)), found.down)
    axes.set(xlabel=short_name(found.keys[1]), ylabel=short_name(found.keys[0]))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    decimals = max(0, 3 - math.floor(math.log10(max(float(np.nanmax(np.abs(found.means))), 1e-9))))
    for (line, column), mean in np.ndenumerate(found.means):
        if np.isnan(mean):
            continue
        red, green, blue, _ = picture.cmap(picture.norm(mean))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        colour = "white" if dark else "black"
        axes.text(column, line, f"{mean:.{decimals}f}", ha="center", va="center", color=colour, fontsize=10.5)
    axes.set_title(found.metric.title, loc="left", fontsize=9.5)
    seeds = [f"{found.seeds} seeds"] if found.seeds > 1 else []
    over = [*found.over, *seeds]
    text = f"mean over {' and '.join(over)}" if over else "a run each"
    footnote(axes, f"{text}; brighter is better")
