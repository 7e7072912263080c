"""The heat maps of a study, one for each variant: the two first keys of its grid, a mean in each field.

Guarantees that a number stands in every field, so that no colour has to be read; what has not run is empty.
A field is a mean over runs of one variant (`cells` of the study), all private or none, and says over what.
May import numpy; matplotlib's axes are given. Colours of cividis (Nuñez et al. 2018), for all eyes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.studying.drawing import footnote, listed, number
from dp_diffusers.studying.trade_offs import (
    EPSILON,
    LINES,
    SAME,
    Metric,
    Rows,
    averaged,
    short_name,
    trained_runs,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatMap:
    """means: float64 [rows, columns], NaN where no run is; over: what they are means over, in words.

    variant: the cell's name before the values of the grid, where a study has several, else None. balanced:
    whether all fields are means over the same settings.
    """

    variant: str | None
    metric: Metric
    keys: tuple[str, str]
    down: tuple[str, ...]
    across: tuple[str, ...]
    means: NDArray[np.float64]
    over: tuple[str, ...]
    balanced: bool
    seeds: int


def heat_maps_of(rows: Rows, metric: Metric, grid: Sequence[str]) -> list[HeatMap]:
    """One for each variant that has runs with the metric at two values or more of two keys of the grid."""
    variants: dict[str, list[Mapping[str, Any]]] = {}
    for row in trained_runs(rows, metric):
        # every key of the grid has put `+key=value` behind the variant's name
        variants.setdefault(row["cell"].rsplit("+", len(grid))[0], []).append(row)
    several = len(variants) > 1
    found = (_map_of(part, metric, grid, name if several else None) for name, part in variants.items())
    return [one for one in found if one is not None]


def _map_of(rows: Rows, metric: Metric, grid: Sequence[str], variant: str | None) -> HeatMap | None:
    known = [key for key in sorted(grid, key=_importance) if len(_values(key, rows)) > 1]
    if len(known) < 2:
        return None
    across, down = known[:2]
    columns, lines = _values(across, rows), _values(down, rows)
    fields: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get(down) is not None and row.get(across) is not None:
            fields.setdefault((lines.index(row[down]), columns.index(row[across])), []).append(row)
    means = np.full((len(lines), len(columns)), np.nan)
    for place, here in fields.items():
        means[place] = np.mean([row[metric.column] for row in here])
    over, balanced = averaged(list(fields.values()), {SAME.get(key, key) for key in (across, down)})
    return HeatMap(
        variant=variant,
        metric=metric,
        keys=(down, across),
        down=tuple(map(_shown, lines)),
        across=tuple(map(_shown, columns)),
        means=means,
        over=over,
        balanced=balanced,
        seeds=len({row["seed"] for here in fields.values() for row in here}),
    )


def _importance(key: str) -> int:
    columns = [EPSILON.column, *(axis.column for axis in LINES)]
    column = SAME.get(key, key)
    return columns.index(column) if column in columns else len(columns)


def _values(key: str, rows: Rows) -> list[Any]:
    found = dict.fromkeys(value for row in rows if (value := row.get(key)) is not None)
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
    named = "" if found.variant is None else f"{found.variant}: "
    axes.set_title(named + found.metric.title, loc="left", fontsize=9.5)
    footnote(axes, f"{said(found)}; brighter is better")


def said(found: HeatMap) -> str:
    """What a field is, in small print."""
    over = [*found.over, *([f"{found.seeds} seeds"] if found.seeds > 1 else [])]
    text = f"mean over {listed(over)}" if over else "a run each"
    return text + ("; not all combinations have run" if found.over and not found.balanced else "")
