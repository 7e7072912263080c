"""Scores for a notebook: plain tables.

Guarantees that names are escaped and that what ε does not cover stands over the figures. May import the
standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_diffusers.evaluation.rows import Row
    from dp_diffusers.evaluation.scores import Scores


def as_html(scores: Scores) -> str:
    """A table of rows, and a folded one of classes."""
    heads, cells = _columns(scores)
    caption = (
        f"Accuracy of {scores.classifier} on {scores.reference_images} reference images in per cent, mean "
        f"and 95 % interval over {scores.seeds} seeds"
    )
    parts = [f"<p><strong>{escape(line)}</strong></p>" for line in scores.not_covered]
    parts.append(_table(caption, ["trained on", "images", "accuracy", *heads], cells))
    by_class = [
        [name, *("–" if math.isnan(row.per_class[place]) else _class(row, place) for row in scores.rows)]
        for place, name in enumerate(scores.class_names)
    ]
    folded = _table("Accuracy of each class", ["class", *(row.trained_on for row in scores.rows)], by_class)
    parts.append(f"<details><summary>Accuracy of each class</summary>{folded}</details>")
    parts += [f"<p>{escape(note)}</p>" for note in scores.notes]
    return f"<div>{''.join(parts)}</div>"


def _columns(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Further heads, and all cells: of what was computed alone."""
    agreed = {one.of: f"{one.mean:.1f}" for one in scores.fidelity}
    distances = {one.of: f"{one.figures['fid']:.4g}" for one in scores.distances}
    ratios = {one.of: f"{one.means()['diversity_ratio']:.2f}" for one in scores.diversity}
    frechet = scores.distances[0].frechet_name if scores.distances else ""
    extra = {"label fidelity": agreed, frechet: distances, "diversity ÷ real": ratios}
    shown = {head: found for head, found in extra.items() if found}
    cells = [
        [
            row.trained_on,
            str(row.images),
            f"{row.accuracy.mean:.2f} ({row.accuracy.low:.2f} to {row.accuracy.high:.2f})",
            f"{row.calibration['calibration_error'].mean:.2f}" if row.calibration else "–",
            *(found.get(row.trained_on, "–") for found in shown.values()),
        ]
        for row in scores.rows
    ]
    return ["calibration error", *shown], cells


def _class(row: Row, place: int) -> str:
    interval = row.per_class_interval[place] if row.per_class_interval else None
    if interval is None:
        return f"{row.per_class[place]:.1f}"
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    top = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{top}<tbody>{body}</tbody></table>"
