"""Scores for a terminal.

Guarantees that what ε does not cover stands under the figures. May import the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dp_diffusers.evaluation.distances_table import table

if TYPE_CHECKING:
    from dp_diffusers.evaluation.scores import Scores


def explained(scores: Scores) -> str:
    """All figures, one kind after the other."""
    lines = [f"accuracy of {scores.classifier} on the reference, 95 % interval over {scores.seeds} seeds:"]
    lines += _aligned([[row.trained_on, str(row.accuracy), f"{row.images} images"] for row in scores.rows])
    named = [pair for pair in zip(scores.synthetic.per_class, scores.class_names) if not math.isnan(pair[0])]
    lines.append(f"weakest classes: {_listed(sorted(named)[:3])}")
    lines += [*_calibration(scores), *_fidelity(scores), *table(scores.distances), *_diversity(scores)]
    # every figure but the plain diversity reads real images; that one stands over this line, safely
    return "\n".join([*lines, *scores.notes, *scores.not_covered])


def _calibration(scores: Scores) -> list[str]:
    if not scores.synthetic.calibration:
        return []
    rows = [["", "error, %", "Brier score", "log loss"]]
    for row in scores.rows:
        found = [row.calibration[name] for name in ("calibration_error", "brier_score", "log_loss")]
        rows.append([row.trained_on, *(f"{one.mean:.3g} ({one.low:.3g} to {one.high:.3g})" for one in found)])
    return ["calibration of these classifiers, 0 is best:", *_aligned(rows)]


def _fidelity(scores: Scores) -> list[str]:
    if not scores.fidelity:
        return []
    first = scores.fidelity[0]
    teachers = f"{len(first.agreement)} {scores.classifier} trained on {first.taught_by}"
    rows = []
    for one in scores.fidelity:
        share = str(one.interval or f"{one.mean:.2f} %")
        rows.append([one.of, share, f"least {_listed(one.least(scores.class_names))}"])
    return [f"label fidelity, judged by {teachers}:", *_aligned(rows)]


def _diversity(scores: Scores) -> list[str]:
    if not scores.diversity:
        return []
    rows = [["", "Vendi score", "of as many real", "ratio"]]
    for one in scores.diversity:
        rows.append(
            [one.of, *("–" if math.isnan(value) else f"{value:.3f}" for value in one.means().values())]
        )
    return [
        f"diversity within a class, by {scores.diversity[0].features}, mean of the classes:",
        *_aligned(rows),
    ]


def _listed(named: Sequence[tuple[float, str]]) -> str:
    return ", ".join(f"{name} ({value:.1f} %)" for value, name in named)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, each as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
