"""The picture of an audit: how the scores of canaries that were in lie against those that were out.

Guarantees a file of vectors without a date or a machine's name in it. May import numpy, and matplotlib inside
its function. The grey bands are what was guessed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dp_diffusers.auditing.scores import Scores

IN, OUT, GUESSED = "#c44e52", "#4c72b0", "#e8e8e8"


def draw(panels: list[tuple[Scores, float]], title: str, path: Path) -> Path:
    """Writes the picture (SVG or PNG by its name), a panel for each attack and the share that it guessed.

    Returns: `path`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "dp-diffusers", "font.size": 9}):
        figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
        figure.suptitle(title)
        for axes, (scores, share) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
            _panel(axes, scores, share)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _panel(axes: Any, scores: Scores, share: float) -> None:
    values, threshold = np.nan_to_num(scores.values), scores.threshold(share)
    low, high = np.quantile(values, [0.001, 0.999])
    margin = 0.05 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, 41 if len(values) > 500 else 17)
    shown = values.clip(edges[0], edges[-1])
    bands = [(edges[0], -threshold), (threshold, edges[-1])]
    for start, stop in (band for band in bands if band[0] < band[1]):
        axes.axvspan(start, stop, color=GUESSED, zorder=0)
    axes.hist(shown[scores.included], edges, color=IN, alpha=0.6, label="in")
    axes.hist(shown[~scores.included], edges, color=OUT, alpha=0.6, label="out")
    title = f"{scores.name} attack, {len(values)} canaries"
    axes.set(title=title, xlabel=scores.meaning, ylabel="canaries", xlim=(edges[0], edges[-1]))
    axes.legend(frameon=False)
