"""The picture of an audit: how the scores of canaries that were in lie against those that were out.

Guarantees a file of vectors without a date or a machine's name in it. May import numpy, and matplotlib inside
its function. The grey bands are what was guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

IN, OUT, GUESSED = "#c44e52", "#4c72b0", "#e8e8e8"


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One attack: float64 `scores [N]`, bool `included [N]`, `guesses`: the largest |score| are guessed."""

    title: str
    axis: str
    scores: np.ndarray
    included: np.ndarray
    guesses: int

    @property
    def threshold(self) -> float:
        """The smallest |score| that was guessed."""
        return float(np.sort(np.abs(self.scores))[-self.guesses])


def draw(panels: list[Panel], title: str, path: Path) -> Path:
    """Writes the picture (SVG by its name) and returns its path."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "dp-diffusers", "font.size": 9}):
        figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
        figure.suptitle(title)
        for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
            _panel(axes, panel)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _panel(axes: Any, panel: Panel) -> None:
    low, high = np.quantile(panel.scores, [0.001, 0.999])
    margin = 0.05 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, 41)
    shown = panel.scores.clip(edges[0], edges[-1])
    for start, stop in ((edges[0], -panel.threshold), (panel.threshold, edges[-1])):
        if start < stop:
            axes.axvspan(start, stop, color=GUESSED, zorder=0)
    axes.hist(shown[panel.included], edges, color=IN, alpha=0.6, label="in")
    axes.hist(shown[~panel.included], edges, color=OUT, alpha=0.6, label="out")
    axes.set(title=panel.title, xlabel=panel.axis, ylabel="canaries", xlim=(edges[0], edges[-1]))
    axes.legend(frameon=False)
