"""All pictures of a study: the cells side by side, a trade-off for each setting, one figure with all of them.

Guarantees the same files for the same results, none for a setting that does not vary, and that pictures of an
earlier state are taken away. May import matplotlib inside its functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dp_diffusers.studying import chart
from dp_diffusers.studying.drawing import STYLE, draw_panel, save
from dp_diffusers.studying.heat_map import draw_heat_map, heat_maps_of
from dp_diffusers.studying.results import StudyResult
from dp_diffusers.studying.trade_offs import Metric, accuracy, frechet, panels_of

KINDS: Final = (".svg", ".png")
Drawing = Callable[[Any], None]  # on the axes it is given


def draw(result: StudyResult, folder: Path) -> list[str]:
    """Writes all pictures as SVG and PNG. Returns: the names of those to show in a table (PNG)."""
    names = ["accuracy"]
    for kind in KINDS:
        chart.draw(result.rows, folder / f"accuracy{kind}", result.images.tested_on)
    metrics = [accuracy(result.images.tested_on)]
    if result.distances is not None:
        metrics.append(frechet(result.distances))
    for metric in metrics:
        names += _trade_offs(result, metric, folder)
    _clear(folder, set(names))
    return [f"{name}.png" for name in names]


def _trade_offs(result: StudyResult, metric: Metric, folder: Path) -> list[str]:
    """The names, without their ends; the overview of several comes first."""
    found = dict(_drawings(result, metric))
    if len(found) > 1:
        _figure(list(found.values()), folder / f"trade-offs{metric.suffix}")
    for name, drawing in found.items():
        _figure([drawing], folder / name)
    return [*([f"trade-offs{metric.suffix}"] if len(found) > 1 else []), *found]


def _drawings(result: StudyResult, metric: Metric) -> Iterator[tuple[str, Drawing]]:
    rows = result.to_rows()
    for panel in panels_of(rows, metric):
        yield (
            f"trade-off-{panel.axis.key}{metric.suffix}",
            lambda axes, panel=panel: draw_panel(axes, panel),  # type: ignore[misc]
        )
    for found in heat_maps_of(rows, metric, result.grid):
        variant = "" if found.variant is None else f"-{found.variant}"
        yield (
            f"trade-off-heat-map{variant}{metric.suffix}",
            lambda axes, found=found: draw_heat_map(axes, found),  # type: ignore[misc]
        )


def _figure(drawings: list[Drawing], stem: Path) -> None:
    """One picture with a panel for each drawing, two in a line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(2, len(drawings))
    lines = math.ceil(len(drawings) / columns)
    with rc_context(STYLE):
        figure = Figure(
            figsize=(4.6 * columns, 3.7 * lines), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1)
        )
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, drawing in zip(panels, drawings, strict=False):
            drawing(axes)
        for axes in panels[len(drawings) :]:
            axes.set_axis_off()
        for kind in KINDS:
            save(figure, stem.with_name(stem.name + kind))


def _clear(folder: Path, names: set[str]) -> None:
    """Takes away trade-offs that this result does not have."""
    for path in folder.glob("trade-off*"):
        if path.suffix in KINDS and path.stem not in names:
            path.unlink(missing_ok=True)
