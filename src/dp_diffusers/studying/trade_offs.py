"""What a study shows of one setting: a figure of merit against it, in lines for another, over all the rest.

Guarantees that an interval is over seeds that have the same cells, that a mean says what it is over, that
runs without a value on an axis are left out of it, and runs without privacy out of the means of private ones.
May import numpy and scipy; nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import stats

Rows = Sequence[Mapping[str, Any]]  # those of `StudyResult.to_rows`


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting. key: in file names. column: of the rows. title: for a picture. short: in a legend."""

    key: str
    column: str
    title: str
    short: str


AXES: Final = (
    Axis(key="epsilon", column="budget.epsilon", title="privacy budget ε", short="ε"),
    Axis(key="rank", column="rank", title="rank of the adapters", short="rank"),
    Axis(key="noise-draws", column="noise_draws", title="noise draws per image K", short="K"),
    Axis(key="expected-units", column="expected_units", title="expected units per step", short="units"),
    Axis(key="steps", column="mechanism.steps", title="steps", short="steps"),
    Axis(key="clip-norm", column="clip_norm", title="clip norm", short="clip norm"),
    Axis(
        key="trainable-parameters",
        column="trainable_parameters",
        title="trainable parameters",
        short="parameters",
    ),
)
EPSILON: Final = AXES[0]
STRATEGY: Final = Axis(key="strategy", column="strategy", title="strategy", short="strategy")
TARGETS: Final = Axis(key="targets", column="targets", title="adapted layers", short="targets")
LINES: Final = (STRATEGY, *AXES[:-1], TARGETS)  # the most important first: strategies are never averaged
SAME: Final = {
    "strategy.rank": "rank",
    "training.noise_draws": "noise_draws",
    "strategy.name": "strategy",
} | {
    f"mechanism.{name}": name for name in ("expected_units", "clip_norm")
}  # grid key → the column that every study has of it


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of merit. bounds: values that it cannot leave. suffix: of file names."""

    column: str
    title: str
    bounds: tuple[float, float]
    lower_is_better: bool = False
    suffix: str = ""


def accuracy(tested_on: str) -> Metric:
    """Of a classifier on `tested_on`, which says whose images these are."""
    return Metric(column="accuracy", title=f"accuracy on {tested_on} (%)", bounds=(0.0, 100.0))


def frechet(name: str) -> Metric:
    """The Fréchet distance, under its name with the extractor that was used."""
    title = f"{name}\n(lower is better)"
    return Metric(column="fid", title=title, bounds=(0.0, math.inf), lower_is_better=True, suffix="-fid")


@dataclass(frozen=True, kw_only=True)
class Point:
    """The mean of all runs with one value on the axis; low, high: 95 % over two seeds or more."""

    x: float
    mean: float
    low: float | None
    high: float | None
    runs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """All points with one value of the other setting; value: None where there is no other."""

    value: Any
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture's contents. over: what the means are over, beside seeds, in words.

    balanced: whether all points are means over the same values of it. public: name and mean of each public
    model, over its seeds.
    """

    axis: Axis
    other: Axis | None
    metric: Metric
    lines: tuple[Line, ...]
    over: tuple[str, ...]
    balanced: bool
    seeds: int
    public: tuple[tuple[str, float], ...]


def panels_of(rows: Rows, metric: Metric) -> list[Panel]:
    """One for each setting of `AXES` that has two values or more among the runs with the metric."""
    trained, public = trained_runs(rows, metric), _public_means(rows, metric)
    return [_panel(axis, trained, metric, public) for axis in AXES if len(values_of(axis, trained)) > 1]


def trained_runs(rows: Rows, metric: Metric) -> Rows:
    """The runs with the metric that trained: the private ones, or where none is private all of them."""
    known = [row for row in rows if row["epsilon"] != 0 and row[metric.column] is not None]
    return [row for row in known if row["epsilon"] is not None] or known


def _public_means(rows: Rows, metric: Metric) -> tuple[tuple[str, float], ...]:
    """One for each base and way of making images: a mean over these would be of no model."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["epsilon"] == 0 and row[metric.column] is not None:
            found.setdefault(row["cell"], []).append(float(row[metric.column]))
    return tuple((name, float(np.mean(values))) for name, values in found.items())


def value_of(axis: Axis, row: Mapping[str, Any]) -> Any:
    """The run's value; None where it has none: without privacy no ε, and `pe` trains nothing.

    Nor has a run that trains no parameter a place among those that do.
    """
    if axis.column == "budget.epsilon" and row["epsilon"] is None:
        return None
    if axis not in (EPSILON, STRATEGY) and row["strategy"] == "pe":
        return None
    return row.get(axis.column) or None


def values_of(axis: Axis, rows: Rows) -> list[Any]:
    """Distinct values in order: numbers by size, words as they come."""
    found = dict.fromkeys(value for row in rows if (value := value_of(axis, row)) is not None)
    numbers = all(isinstance(value, int | float) for value in found)
    return sorted(found) if numbers else list(found)


def _panel(axis: Axis, rows: Rows, metric: Metric, public: tuple[tuple[str, float], ...]) -> Panel:
    there = [row for row in rows if value_of(axis, row) is not None]
    other = next(
        (one for one in LINES if one is not axis and not _follows(one, axis, there) and _varies(one, there)),
        None,
    )
    lines = []
    for value in values_of(other, there) if other else [None]:
        chosen = [row for row in there if other is None or value_of(other, row) == value]
        points = [
            _point(x, [row for row in chosen if value_of(axis, row) == x], metric)
            for x in values_of(axis, chosen)
        ]
        lines.append(Line(value=value, points=tuple(points)))
    over, balanced = _over(axis, other, there)
    return Panel(
        axis=axis,
        other=other,
        metric=metric,
        lines=tuple(lines),
        over=over,
        balanced=balanced,
        seeds=len({row["seed"] for row in there}),
        public=public,
    )


def _varies(axis: Axis, rows: Rows) -> bool:
    return len(values_of(axis, rows)) > 1


def _follows(one: Axis, axis: Axis, rows: Rows) -> bool:
    """Whether a value of `axis` says that of `one`, as trained parameters say the rank."""
    if one is STRATEGY:  # ranks of two strategies are not points of one line
        return False
    known: dict[Any, Any] = {}
    return all(
        known.setdefault(value_of(axis, row), value_of(one, row)) == value_of(one, row) for row in rows
    )


def _point(x: float, rows: Rows, metric: Metric) -> Point:
    values = [float(row[metric.column]) for row in rows]
    low, high = _interval(rows, metric)
    return Point(x=x, mean=float(np.mean(values)), low=low, high=high, runs=tuple(values))


def _interval(rows: Rows, metric: Metric) -> tuple[float | None, float | None]:
    """Student's 95 % over the means of those seeds that have all cells of the point."""
    cells = {row["cell"] for row in rows}
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(float(row[metric.column]))
    means = [float(np.mean(values)) for values in by_seed.values() if len(values) == len(cells)]
    if len(means) < 2:
        return None, None
    spread = float(np.std(means, ddof=1)) / math.sqrt(len(means))
    middle, reach = float(np.mean(means)), float(stats.t.ppf(0.975, len(means) - 1)) * spread
    return max(metric.bounds[0], middle - reach), min(metric.bounds[1], middle + reach)


def _over(axis: Axis, other: Axis | None, rows: Rows) -> tuple[tuple[str, ...], bool]:
    """Names of the settings that differ among the runs of a point; whether all points have equal ones."""
    fixed = {one.column for one in (axis, other) if one is not None}
    groups: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = value_of(axis, row), None if other is None else value_of(other, row)
        groups.setdefault(key, []).append(row)
    return averaged(list(groups.values()), fixed)


def averaged(groups: Sequence[Rows], fixed: Collection[str]) -> tuple[tuple[str, ...], bool]:
    """What the mean of each group is over, in words; whether all groups have equal settings.

    fixed: columns that are one value in a group, under the names of `SAME`.
    """
    columns = [
        column
        for column in dict.fromkeys(name for group in groups for row in group for name in row if "." in name)
        if SAME.get(column, column) not in fixed
        and any(len({str(row.get(column)) for row in group}) > 1 for group in groups)
    ]
    met = {frozenset(tuple(str(row.get(column)) for column in columns) for row in group) for group in groups}
    return tuple(map(short_name, columns)), len(met) == 1


def short_name(key: str) -> str:
    """What a recipe key is called in a legend."""
    column = SAME.get(key, key)
    known: dict[str, str] = {axis.column: axis.short for axis in (*AXES, STRATEGY, TARGETS)}
    return known.get(column, key.rpartition(".")[2].replace("_", " "))
