"""A picture of a ledger: what all runs had charged after each charge, against the cap.

Guarantees that it shows what is in the ledger and nothing else, and that the file needs no other: one SVG
with its own style, light or dark as the reader's screen, with a title and a description for screen readers.
May import the standard library and privacy/. Source of the totals: `privacy/spending.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Final

from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.privacy.ledger_file import Entry
from dp_diffusers.privacy.runs import Run, asked_records
from dp_diffusers.privacy.spending import Cost, CostCurve, Terms, total
from dp_diffusers.rounding import rounded_up_text

POINTS: Final = 80  # totals that are computed; between them the curve rises in one step
WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 704, 48, 300
COLOURS: Final = ("#2a78d6", "#1b8a6b", "#c98500", "#8b5fc7", "#d0475c", "#5b7083")
_STYLE: Final = """
svg { background: #fcfcfb; color: #24272b; font: 13px system-ui, sans-serif; }
text { fill: currentColor; }
.axis { stroke: currentColor; stroke-opacity: .35; }
.quiet { fill-opacity: .7; }
.cap { stroke: #b3261e; stroke-width: 2; stroke-dasharray: 7 4; }
.counted { stroke: currentColor; stroke-dasharray: 2 3; }
@media (prefers-color-scheme: dark) {
  svg { background: #17191c; color: #e6e7e9; }
  .cap { stroke: #ff8a80; }
}"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What all runs had charged after charge number `charge` (from 1), which was one of `run`."""

    charge: int
    run: str
    epsilon: float


def curve(ledger: Ledger) -> list[Point]:
    """Total epsilon after about `POINTS` of the charges, the last of each run and every query among them."""
    terms = ledger.terms
    if terms is None:
        return []
    charges = [entry for entry in ledger.entries() if entry.kind in ("charge", "query")]
    wanted = set(_wanted(charges))
    tally = _Tally(ledger.runs(), terms)
    points = []
    for number, entry in enumerate(charges, start=1):
        tally.add(entry)
        if number in wanted:
            points.append(Point(charge=number, run=entry.run, epsilon=tally.total()))
    return points


def _wanted(charges: Sequence[Entry]) -> Iterator[int]:
    every = max(1, math.ceil(len(charges) / POINTS))
    for number, entry in enumerate(charges, start=1):
        after = charges[number] if number < len(charges) else None
        if number % every == 0 or after is None or after.run != entry.run or entry.kind == "query":
            yield number


class _Tally:
    """Costs of all runs after some charges; each is computed once, on the coarse grid."""

    def __init__(self, runs: Sequence[Run], terms: Terms) -> None:
        self._runs = {run.run_id: run for run in runs}
        self._terms = terms
        self._newest: dict[str, Entry] = {}
        self._asked: dict[str, dict[str, int]] = {}
        self._curves: dict[tuple[str, str], CostCurve] = {}

    def add(self, entry: Entry) -> None:
        """Takes in one charge."""
        self._newest[entry.run] = entry
        if entry.kind == "query":
            self._asked[entry.run] = entry.content["asked"]

    def total(self) -> float:
        """Epsilon of everything charged so far."""
        return total([self._cost(name) for name in self._newest], self._terms).epsilon

    def _cost(self, name: str) -> Cost:
        run, asked = self._runs[name], self._asked.get(name, {})
        key = name, str(sorted(asked.items()))
        if key not in self._curves:
            queries = asked_records(run.queries, asked)
            self._curves[key] = CostCurve(run.record, run.cost.delta, self._terms, queries)
        return self._curves[key].coarse(self._newest[name].content["count"])


def picture(ledger: Ledger) -> str:
    """The whole SVG document."""
    points, spent, terms = curve(ledger), ledger.spent(), ledger.terms
    cap = None if terms is None or terms.cap is None else terms.cap.epsilon
    delta = f"at delta {rounded_up_text(spent.delta)}"  # under a cap it is the cap's, at every charge
    at = delta if cap is not None else "each at the sum of the deltas"
    charged = points[-1].epsilon if points else 0.0
    scale = _Scale(points[-1].charge if points else 1, max(spent.epsilon, charged, cap or 0.0, 1e-9))
    body = [
        *_axes(scale),
        *_areas(points, scale),
        *(
            [_line(scale, spent.epsilon, "counted", f"counted {rounded_up_text(spent.epsilon)} {delta}")]
            if points
            else []
        ),
        *([_line(scale, cap, "cap", f"cap {cap:g} {delta}")] if cap is not None else []),
    ]
    words = _in_words(ledger.runs(), charged, f"{rounded_up_text(spent.epsilon)} {delta}", cap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="title desc">\n<title id="title">Privacy spent on a data set</title>\n'
        f'<desc id="desc">{escape(words)}</desc>\n<style>{_STYLE}\n</style>\n'
        f'<text x="{LEFT}" y="24" font-weight="600">Privacy spent on the data set (epsilon, {at})</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _in_words(runs: Sequence[Run], charged: float, counted: str, cap: float | None) -> str:
    limit = "no cap" if cap is None else f"a cap of epsilon {cap:g} at that delta"
    listed = "; ".join(f"run {run.run_id[:12]} {run.status}, {run.steps_charged} steps" for run in runs)
    spent = f"Charged epsilon {rounded_up_text(charged)}, counted {counted}"
    return f"{spent}, with {limit}. {listed or 'No runs'}."


@dataclass(frozen=True)
class _Scale:
    charges: int
    epsilon: float

    def x(self, charge: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * charge / self.charges, 1)

    def y(self, epsilon: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * min(epsilon / self.epsilon, 1.0) * 0.94, 1)


def _axes(scale: _Scale) -> Iterator[str]:
    yield f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>'
    for part in (0.0, 0.5, 1.0):
        value = part * scale.epsilon
        yield f'<text x="{LEFT - 8}" y="{scale.y(value) + 4}" text-anchor="end">{value:.3g}</text>'
    where = f'x="{RIGHT}" y="{HEIGHT - 12}" text-anchor="end"'
    yield f'<text class="quiet" {where}>charges: {scale.charges}</text>'


def _areas(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    """One filled staircase for each stretch of charges of one run."""
    order = {name: index for index, name in enumerate(dict.fromkeys(point.run for point in points))}
    began, ended_at = 0, 0.0
    for run, stretch in groupby(points, key=lambda point: point.run):
        path = [f"M{scale.x(began)} {BOTTOM}V{scale.y(ended_at)}"]
        for point in stretch:
            path.append(f"V{scale.y(point.epsilon)}H{scale.x(point.charge)}")
            last = point
        colour = COLOURS[order[run] % len(COLOURS)]
        yield (
            f'<path d="{"".join(path)}V{BOTTOM}Z" fill="{colour}" fill-opacity=".35" stroke="{colour}">'
            f"<title>run {escape(run)}: epsilon {rounded_up_text(last.epsilon)} after it</title></path>"
        )
        if scale.x(last.charge) - scale.x(began) > 90:
            middle = (scale.x(began) + scale.x(last.charge)) / 2
            yield f'<text x="{middle:.1f}" y="{BOTTOM + 20}" text-anchor="middle">{escape(run[:12])}</text>'
        began, ended_at = last.charge, last.epsilon


def _line(scale: _Scale, epsilon: float, kind: str, label: str) -> str:
    y = scale.y(epsilon)
    place = f'x="{RIGHT}" y="{y - 6}" text-anchor="end"' if kind == "cap" else f'x="{LEFT + 8}" y="{y - 6}"'
    return f'<path class="{kind}" d="M{LEFT} {y}H{RIGHT}"/><text {place}>{label}</text>'
