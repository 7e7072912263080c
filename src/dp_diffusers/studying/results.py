"""What a study found: one record for each run, one row for each cell, as CSV, JSON and a table.

Guarantees that a mean over seeds comes with its interval, or says that one seed gives none, and that every
table says whose epsilon it shows. May import numpy and scipy.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from dp_diffusers.evaluation.intervals import Interval
from dp_diffusers.evaluation.scores import NOT_COVERED

CLAIM: Final = (
    "each cell claims its own ε; together they are not covered by any of them, nor is a choice among them: a "
    "study is for public stand-ins and benchmark data"
)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a study: a cell and a seed. epsilon: None without privacy, 0 for the public model.

    expected_rows_at_most: of private images, see `row_count`.
    """

    cell: str
    seed: int
    epsilon: float | None
    delta: float | None
    steps: int
    expected_rows_at_most: int
    trainable_parameters: int
    images: int
    accuracy: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """One cell over its seeds. accuracy: in per cent; low, high: None for one seed."""

    cell: str
    epsilon: float | None
    delta: float | None
    steps: int
    expected_rows_at_most: int
    trainable_parameters: int
    images: int
    seeds: int
    mean: float
    low: float | None
    high: float | None
    accuracies: tuple[float, ...]

    @classmethod
    def of(cls, records: Sequence[RunRecord]) -> CellRow:
        """Summarises the runs of one cell; its epsilon is the largest of them."""
        values = [record.accuracy for record in records]
        known = [record.epsilon for record in records if record.epsilon is not None]
        interval = Interval.of(values) if len(values) > 1 else None
        first = records[0]
        return cls(
            cell=first.cell,
            epsilon=max(known) if known else None,
            delta=first.delta,
            steps=max(record.steps for record in records),
            expected_rows_at_most=max(record.expected_rows_at_most for record in records),
            trainable_parameters=first.trainable_parameters,
            images=first.images,
            seeds=len(records),
            mean=float(np.mean(values)),
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            accuracies=tuple(values),
        )

    def to_dict(self) -> dict[str, Any]:
        """The row of the JSON document; accuracy {mean, low, high} in per cent."""
        facts = asdict(self)
        accuracy = {name: facts.pop(name) for name in ("mean", "low", "high")}
        return {**facts, "accuracies": list(self.accuracies), "accuracy": accuracy}


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """All runs that have finished, in the order of the study, and how many there are to be."""

    records: tuple[RunRecord, ...]
    planned: int
    features: str

    @property
    def rows(self) -> list[CellRow]:
        """One for each cell that has a run."""
        cells = dict.fromkeys(record.cell for record in self.records)
        return [CellRow.of([record for record in self.records if record.cell == cell]) for cell in cells]

    @property
    def complete(self) -> bool:
        """Whether all runs have finished."""
        return len(self.records) == self.planned

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "claim": CLAIM,
            "complete": self.complete,
            "features": self.features,
            "metric": "accuracy",
            "rows": [row.to_dict() for row in self.rows],
            "runs": [record.to_dict() for record in self.records],
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """Tidy: one line for each run."""
        stream = io.StringIO()
        names = list(RunRecord.__dataclass_fields__)
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(record.to_dict() for record in self.records)
        return stream.getvalue()

    def to_markdown(self) -> str:
        """The table, and what it does not claim."""
        head = [
            "cell",
            "ε",
            "accuracy (%)",
            "95 % interval over seeds",
            "seeds",
            "rows expected, at most",
            "trained",
        ]
        lines = [_line(head), _line(["---", "--:", "--:", "---", "---", "--:", "--:"])]
        lines += [_line(_cells(row)) for row in self.rows]
        notes = [f"Accuracy of {self.features}, trained on the synthetic images; {NOT_COVERED}.", f"{CLAIM}."]
        return "\n".join([*lines, "", *(note[0].upper() + note[1:] for note in notes)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: CellRow) -> list[str]:
    interval = "one seed" if row.low is None else f"{row.low:.2f} to {row.high:.2f}"
    values = ", ".join(f"{value:.2f}" for value in row.accuracies)
    epsilon = "∞" if row.epsilon is None else f"{row.epsilon:.4g}"
    numbers = [f"{row.expected_rows_at_most:,}", f"{row.trainable_parameters:,}"]
    return [row.cell, epsilon, f"{row.mean:.2f}", interval, values, *numbers]
