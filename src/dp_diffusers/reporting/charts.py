"""Charts of a page: SVG that takes its colours from the page, with a title and a description to read out.

Guarantees that the only numbers in its text are those of the certificate, shares and scores, so that no tick
of an axis can be taken for a count; and that every text is escaped. May import the standard library,
markupsafe and the rounding of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from dp_diffusers.reporting.scores import ShownScores
from dp_diffusers.reporting.spending import Spending
from dp_diffusers.rounding import rounded_up_text

WIDTH: Final = 420.0
_LEFT, _RIGHT = 40.0, 408.0
_NEAR: Final = 2.5  # a cap further above the curve than that is told in words


@dataclass(frozen=True)
class Scale:
    """A straight map of [low, high] onto [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def _text(x: float, y: float, words: object, anchor: str = "start", css: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(
        x, y, anchor, css, words
    )


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, css
    )


def _dot(x: float, y: float, css: str = "dot") -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" class="{}"/>').format(x, y, css)


def _svg(name: str, title: str, description: str, height: float, parts: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-labelledby="{n}-title {n}-text" class="chart">'
        '<title id="{n}-title">{}</title><desc id="{n}-text">{}</desc>{}</svg>'
    ).format(WIDTH, height, title, description, Markup("").join(parts), n=name)


def spending_chart(spending: Spending) -> Markup:
    """Epsilon over the steps, against cap and ledger where these are near, and at the same delta."""
    bottom, top = 212.0, 22.0
    near = [
        value
        for value, delta in ((spending.cap, spending.cap_delta), (spending.spent, spending.spent_delta))
        if value and value <= _NEAR * spending.epsilon and delta == spending.delta
    ]
    y = Scale(0.0, 1.06 * max([spending.epsilon, *near]), bottom, top)
    x = Scale(0.0, 1.0, _LEFT, _RIGHT)
    parts = [_line(_LEFT, bottom, _RIGHT, bottom, "axis")]
    for value in _ticks(y.high):
        parts += [_line(_LEFT, y(value), _RIGHT, y(value), "grid")] if value else []
        parts.append(_text(_LEFT - 6, y(value) + 4, f"{value:g}", "end", "small"))
    parts += [_text(x(share), bottom + 17, f"{share:.0%}", "middle", "small") for share in (0, 0.5)]
    parts += [
        _text(_RIGHT, bottom + 17, f"all {spending.steps} steps", "end", "small"),
        _text(_LEFT, top - 10, "ε", "end", "small"),
        *_curve(spending, x, y),
    ]
    if spending.cap is not None and spending.cap in near:
        parts.append(_line(_LEFT, y(spending.cap), _RIGHT, y(spending.cap), "cap"))
        parts.append(
            _text(_LEFT + 8, y(spending.cap) - 6, f"cap of the ledger: {spending.cap:g}", css="small")
        )
    if spending.spent in near and spending.spent > spending.epsilon * 1.001:
        parts.append(_line(_LEFT, y(spending.spent), _RIGHT, y(spending.spent), "counted"))
        words = f"all runs of the ledger: {rounded_up_text(spending.spent)}"
        parts.append(_text(_LEFT + 8, y(spending.spent) + 15, words, css="small"))
    parts.append(_dot(_RIGHT, y(spending.epsilon)))
    parts.append(
        _text(_RIGHT - 8, y(spending.epsilon) + 20, f"ε {rounded_up_text(spending.epsilon)}", "end", "strong")
    )
    told = "; ".join(
        f"after {share:.0%} of the steps {rounded_up_text(value)}" for share, value in spending.rows
    )
    at = f"all at delta {rounded_up_text(spending.delta)}"
    cap = "without a cap" if spending.cap is None else f"the cap of the ledger is {_cap(spending)}"
    title = "Epsilon spent, from the first step to the last"
    return _svg("spending", title, f"{told}, {at}; {cap}.", bottom + 26, parts)


def _cap(spending: Spending) -> str:
    delta = spending.cap_delta
    at = "a delta that is not stated" if delta is None else f"delta {rounded_up_text(delta)}"
    return f"{spending.cap:g} at {at}"


def _curve(spending: Spending, x: Scale, y: Scale) -> list[Markup]:
    """Steps, since epsilon between two computed points is rounded up to the later one."""
    line = [f"M{x(0):.1f},{y(spending.epsilons[0]):.1f}"]
    for share, epsilon in zip(spending.shares[1:], spending.epsilons[1:]):
        line.append(f"L{x(share):.1f},{y(epsilon):.1f}")
    area = [*line, f"L{x(1):.1f},{y(0):.1f}", f"L{x(0):.1f},{y(0):.1f}Z"]
    shapes = (("area", area), ("curve", line))
    return [Markup('<path d="{}" class="{}"/>').format("".join(path), css) for css, path in shapes]


def _ticks(high: float) -> list[float]:
    """Three to six round numbers from 0 to `high`."""
    unit = 10.0 ** math.floor(math.log10(high))
    step = next(unit * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if high / (unit * part) <= 6)
    return [index * step for index in range(int(high / step) + 1)]


def scores_chart(scores: ShownScores) -> Markup:
    """The accuracy of each row with its interval, one under the other."""
    spread = 44.0
    lows, highs = [row.low for row in scores.rows], [row.high for row in scores.rows]
    x = Scale(max(0.0, min(lows) - 4), min(100.0, max(highs) + 4), 12.0, _RIGHT)
    foot = 12 + spread * len(scores.rows)
    parts = [_line(12, foot, _RIGHT, foot, "axis")]
    for value in _within(x.low, x.high):
        parts.append(_line(x(value), 10, x(value), foot, "grid"))
        parts.append(_text(x(value), foot + 17, f"{value:g} %", "middle", "small"))
    for place, row in enumerate(scores.rows):
        middle = 36 + spread * place
        css = "dot" if place == 0 else "dot other"
        parts.append(_text(12, middle - 12, row.trained_on, css="strong" if place == 0 else ""))
        parts.append(_line(x(row.low), middle, x(row.high), middle, "whisker"))
        parts += [_line(x(end), middle - 5, x(end), middle + 5, "whisker") for end in (row.low, row.high)]
        parts.append(_dot(x(row.mean), middle, css))
    told = "; ".join(
        f"{row.trained_on}: {row.mean:.1f} % ({row.low:.1f} to {row.high:.1f})" for row in scores.rows
    )
    return _svg("scores", "Accuracy on held-out real images", told + ".", foot + 26, parts)


def _within(low: float, high: float) -> list[float]:
    """Round numbers between two, four at most."""
    step = next(part for part in (1, 2, 5, 10, 20, 25, 50) if (high - low) / part <= 5)
    first = math.ceil(low / step)
    return [float(index * step) for index in range(first, int(high // step) + 1)][:6]


@dataclass(frozen=True)
class Mark:
    """A run in the chart of several. epsilon: None for one that is not private."""

    letter: str
    epsilon: float | None
    mean: float
    low: float
    high: float


def comparison_chart(marks: Sequence[Mark]) -> Markup:
    """Accuracy against epsilon: a letter for each run, those that are not private at the right."""
    bottom, top = 222.0, 20.0
    known = sorted({mark.epsilon for mark in marks if mark.epsilon is not None})
    open_ended = any(mark.epsilon is None for mark in marks)
    right = _RIGHT - (50 if open_ended else 12)
    reach = (math.log(known[0] / 1.3), math.log(known[-1] * 1.3)) if known else (0.0, 1.0)
    across = Scale(*reach, _LEFT, right)
    y = Scale(
        max(0.0, min(mark.low for mark in marks) - 3),
        min(100.0, max(mark.high for mark in marks) + 3),
        bottom,
        top,
    )
    parts = [_line(_LEFT, bottom, _RIGHT, bottom, "axis")]
    for value in _within(y.low, y.high):
        parts.append(_line(_LEFT, y(value), _RIGHT, y(value), "grid"))
        parts.append(_text(_LEFT - 6, y(value) + 4, f"{value:g} %", "end", "small"))
    parts += _epsilon_ticks(known, across, bottom)
    if open_ended:
        parts.append(_text(_RIGHT - 14, bottom + 17, "∞", "middle", "small"))
    for mark, shift in zip(marks, _shifts(marks)):
        x = shift + (_RIGHT - 14 if mark.epsilon is None else across(math.log(mark.epsilon)))
        parts.append(_line(x, y(mark.low), x, y(mark.high), "whisker"))
        parts += [_line(x - 4, y(end), x + 4, y(end), "whisker") for end in (mark.low, mark.high)]
        parts.append(_dot(x, y(mark.mean), "dot warn" if mark.epsilon is None else "dot"))
        parts.append(_text(x + 8, y(mark.mean) + 4, mark.letter, css="strong"))
    parts.append(_text(WIDTH / 2, bottom + 34, "ε (logarithmic)", "middle", "small"))
    told = "; ".join(_told(mark) for mark in marks)
    return _svg("utility", "Accuracy against epsilon", told + ".", bottom + 42, parts)


def _epsilon_ticks(known: Sequence[float], across: Scale, bottom: float) -> list[Markup]:
    """The epsilons themselves, where there is room."""
    parts, last = [], -math.inf
    for epsilon in known:
        x = across(math.log(epsilon))
        if x - last > 34:
            parts.append(_text(x, bottom + 17, rounded_up_text(epsilon, 3), "middle", "small"))
            last = x
    return parts


def _shifts(marks: Sequence[Mark]) -> list[float]:
    """Runs of about the same epsilon stand side by side."""
    keys: list[Any] = [None if mark.epsilon is None else round(math.log(mark.epsilon), 1) for mark in marks]
    shifts = []
    for place, key in enumerate(keys):
        before, all_of_them = keys[:place].count(key), keys.count(key)
        shifts.append(24.0 * (before - (all_of_them - 1) / 2))
    return shifts


def _told(mark: Mark) -> str:
    epsilon = "not private" if mark.epsilon is None else f"epsilon {rounded_up_text(mark.epsilon)}"
    return f"{mark.letter}, {epsilon}: {mark.mean:.1f} % ({mark.low:.1f} to {mark.high:.1f})"


def audit_chart(claimed: float, found: float) -> Markup:
    """What the attack proved, from 0, against what is claimed."""
    x = Scale(0.0, 1.08 * max(claimed, found), 12.0, _RIGHT)
    most, css = rounded_up_text(claimed), "bar" if found <= claimed else "bar warn"
    bar = Markup('<rect x="12" y="30" width="{:.1f}" height="18" class="{}"/>').format(x(found) - 12, css)
    parts = [
        _line(12, 58, _RIGHT, 58, "axis"),
        bar,
        _line(x(claimed), 14, x(claimed), 58, "cap"),
        _text(x(claimed) - 6, 22, f"claimed: at most {most}", "end", "small"),
        _text(12, 76, f"attacked: at least {found:.4g}", "start", "small"),
    ]
    told = f"The attack proves an epsilon of at least {found:.4g}; claimed is at most {most}."
    return _svg("audit", "Epsilon from below and from above", told, 84, parts)
