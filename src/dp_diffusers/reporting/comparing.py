"""Several releases beside each other, as plain data.

Guarantees that what makes their numbers incomparable (another unit, adjacency or delta; accuracies of another
reference or schedule) is said, that accuracies by different classifiers are refused, and that epsilons are
never added up here: only a ledger knows which runs share people. May import what `facts` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dp_diffusers.errors import ParameterError
from dp_diffusers.reporting.facts import Report, distinct_names, framed
from dp_diffusers.reporting.measured import comparable, in_words

_ALIKE: Final = {"unit": "units of privacy", "adjacency": "adjacencies", "delta": "deltas"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Reports of several runs, in the order given."""

    reports: tuple[Report, ...]

    @property
    def names(self) -> list[str]:
        """A name of each run, all different."""
        return distinct_names(self.reports)

    @property
    def any_not_private(self) -> bool:
        """Whether one of them promises nothing."""
        return any(report.not_private for report in self.reports)

    @property
    def any_scores(self) -> bool:
        """Whether one of them has scores, which epsilon does not cover."""
        return any(report.scores is not None for report in self.reports)

    @property
    def warnings(self) -> list[str]:
        """What keeps the epsilons from being compared."""
        private = [report.certificate for report in self.reports if not report.not_private]
        return [
            f"The runs have different {words}, so their epsilons say different things: "
            + ", ".join(sorted({str(known[field]) for known in private}))
            + "."
            for field, words in _ALIKE.items()
            if len({known[field] for known in private}) > 1
        ]

    @property
    def comparable(self) -> bool:
        """Whether the accuracies are known to be of one reference and one schedule."""
        return comparable([report.measured for report in self.reports if report.measured is not None])

    @property
    def measured_on(self) -> list[str]:
        """What the accuracies of each run were measured on; "" without any."""
        return in_words([report.measured for report in self.reports])

    @property
    def score_warnings(self) -> list[str]:
        """What keeps the accuracies from being compared."""
        found = [report.measured for report in self.reports if report.measured is not None]
        if len(found) < 2:
            return []
        known = {one.reference for one in found if one.reference is not None}
        told = {
            "Accuracies were measured on different references": len(known) > 1,
            "It is not known whether accuracies were measured on the same reference": any(
                one.reference is None for one in found
            ),
            "Classifiers saw different numbers of images": len({one.passes for one in found}) > 1,
            "Accuracies are means of different numbers of seeds": len({one.seeds for one in found}) > 1,
        }
        return [f"{words}." for words, so in told.items() if so]

    @property
    def differences(self) -> list[tuple[str, list[Any]]]:
        """Numbers of the certificates that are not the same in all runs, each with its values in order."""
        tables = [dict(report.numbers) for report in self.reports]
        names = dict.fromkeys(name for table in tables for name in table if name != "ledger: head")
        rows = [(name, [table.get(name) for table in tables]) for name in names]
        return [(name, values) for name, values in rows if any(value != values[0] for value in values)]

    @property
    def classes(self) -> list[str]:
        """Classes with an accuracy in a run, in the order met."""
        scored = [report.scores for report in self.reports if report.scores is not None]
        return list(dict.fromkeys(name for scores in scored for name in scores.classes))

    def to_dict(self) -> dict[str, Any]:
        """Everything that the page shows, for JSON."""
        runs = [{**report.to_dict(), "name": name} for name, report in zip(self.names, self.reports)]
        return {"runs": runs, "warnings": [*self.warnings, *self.score_warnings]}

    def to_html(self) -> str:
        """The page: one file that needs no other."""
        from dp_diffusers.reporting.page import comparison_page

        return comparison_page(self)

    def _repr_html_(self) -> str:
        return framed(self.to_html())


def compared(reports: Sequence[Report]) -> Comparison:
    """The reports as one page. Raises `ParameterError` for scores by different classifiers."""
    _require_one_classifier([report.scores.classifier for report in reports if report.scores is not None])
    return Comparison(reports=tuple(reports))


def _require_one_classifier(names: Sequence[str]) -> None:
    for name in names:
        if name != names[0]:
            raise ParameterError(
                f"accuracies by {names[0]} and by {name} cannot be compared",
                hint=f"`dp-diffusers evaluate … --classifier {names[0]}` for each",
            )
