"""Pages out of facts: templates of this package, filled in with everything escaped.

Guarantees one file that needs no other: no address but `data:` ones, a content security policy that lets the
browser open none, and only this package's own script. May import jinja2.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import lru_cache
from importlib.resources import files
from string import ascii_uppercase
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dp_diffusers.privacy.verification import NOT_PRIVATE
from dp_diffusers.reporting import charts
from dp_diffusers.reporting.comparing import Comparison
from dp_diffusers.reporting.facts import Report
from dp_diffusers.reporting.pictures import one_of_each
from dp_diffusers.rounding import rounded_down_text, rounded_up_text


def report_page(report: Report) -> str:
    """One release at a glance."""
    drawn = {
        "spending_chart": report.spending and charts.spending_chart(report.spending),
        "scores_chart": report.scores and charts.scores_chart(report.scores),
        "audit_chart": report.audit
        and charts.audit_chart(report.audit.epsilon_claimed, report.audit.epsilon_lower_bound),
    }
    return _filled("report.html", report=report, **drawn)


def comparison_page(comparison: Comparison) -> str:
    """Several releases beside each other."""
    letters = [letter_of(place) for place in range(len(comparison.reports))]
    marks = [
        charts.Mark(letter, report.certificate["epsilon"], row.mean, row.low, row.high)
        for letter, report in zip(letters, comparison.reports)
        if report.scores is not None
        for row in report.scores.rows[:1]
    ]
    runs = list(zip(letters, comparison.names, comparison.reports))
    facts: dict[str, Any] = {
        "chart": charts.comparison_chart(marks) if marks and comparison.comparable else None,
        "measured_on": dict(zip(letters, comparison.measured_on)),
        "one_of_each": one_of_each,
    }
    return _filled("comparison.html", comparison=comparison, runs=runs, **facts)


def letter_of(place: int) -> str:
    """A, B, …, Z, A1, B1, …"""
    rounds, letter = divmod(place, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(rounds) if rounds else "")


def _filled(template: str, **facts: Any) -> str:
    script = _resource("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            **facts,
            style=Markup(_resource("style.css")),
            script=Markup(script),
            script_digest=digest,
            not_private_words=NOT_PRIVATE,
        )
    )


def _resource(name: str) -> str:
    return (files("dp_diffusers.reporting") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dp_diffusers.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"told": told, "at_most": at_most, "percent": lambda value: f"{value:.1f}"}
    environment.filters |= {"unbroken": unbroken, "bound": rounded_up_text}
    return environment


def unbroken(text: str) -> str:
    """A text whose equations stay on one line."""
    return text.replace(" = ", "\u00a0=\u00a0")


def short(value: Any) -> str:
    """A number as people read it: six digits at most, counts as they are."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def told(value: Any, name: str) -> str:
    """A named number of a certificate in six digits: no bound reads as less than it is, no noise as more."""
    if not isinstance(value, float):
        return short(value)
    if "epsilon" in name or "delta" in name:
        return rounded_up_text(value, 6)
    return rounded_down_text(value, 6) if "noise" in name else short(value)


def at_most(probability: float) -> str:
    """A probability in per cent, rounded up: nobody may take it for less."""
    if probability > 0.9999:
        return "almost 100 %"
    return f"{math.ceil(probability * 10000 - 1e-9) / 100:.4g} %"
