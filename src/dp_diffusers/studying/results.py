"""What a study found: one record for each run, one row for each cell, as CSV, JSON and a table.

Guarantees that a mean over seeds comes with its interval, or says that one seed gives none, and that every
table says whose epsilon it shows and which images it is about. May import numpy and scipy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Final

import numpy as np

from dp_diffusers.evaluation.intervals import Interval
from dp_diffusers.evaluation.scores import NOT_COVERED
from dp_diffusers.rounding import rounded_up_text
from dp_diffusers.studying.settings import ALWAYS
from dp_diffusers.studying.tidy import csv_of, parquet_of

CLAIM: Final = (
    "each cell claims its own ε; together they are not covered by any of them, nor is a choice among them: a "
    "study is for public stand-ins and benchmark data"
)
HEAD: Final = (
    "cell",
    "ε",
    "accuracy (%)",
    "95 % interval over seeds",
    "seeds",
    "rows expected, at most",
    "trained",
)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a study: a cell and a seed. epsilon: None without privacy, 0 for the public model.

    expected_rows_at_most: of private images, see `row_count`. fid and what follows: None where no distances
    were asked for, or too few images made; by the extractor that `StudyResult` names.
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
    fid: float | None = None
    kid: float | None = None
    kid_standard_error: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None

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
class Images:
    """Which images a study is about. note: in words, for people."""

    public_stand_in: bool
    note: str

    @property
    def tested_on(self) -> str:
        """The reference in words."""
        return "held-out public images" if self.public_stand_in else "held-out real images"


BENCHMARK: Final = Images(
    public_stand_in=False,
    note="benchmark data: data.path and evaluate.reference are taken to be public",
)


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """All runs that have finished, in the order of the study, and how many there are to be.

    features: the classifier. settings: of each record, see `settings`. grid: the dotted keys of the study's
    grid. distances: what `fid` is called with the extractor of the distances, None without distances.
    """

    records: tuple[RunRecord, ...]
    planned: int
    features: str
    settings: tuple[Mapping[str, Any], ...] = ()
    grid: tuple[str, ...] = ()
    images: Images = BENCHMARK
    distances: str | None = None
    pictures: tuple[str, ...] = field(default=(), compare=False)

    @property
    def rows(self) -> list[CellRow]:
        """One for each cell that has a run."""
        cells = dict.fromkeys(record.cell for record in self.records)
        return [CellRow.of([record for record in self.records if record.cell == cell]) for cell in cells]

    @property
    def complete(self) -> bool:
        """Whether all runs have finished."""
        return len(self.records) == self.planned

    def to_rows(self) -> list[dict[str, Any]]:
        """Tidy: a flat mapping for each run, its figures first, then its settings; the same keys in all."""
        settings = self.settings or tuple({} for _ in self.records)
        empty = dict.fromkeys(self.columns)
        return [
            {**empty, **record.to_dict(), **chosen}
            for record, chosen in zip(self.records, settings, strict=True)
        ]

    @property
    def columns(self) -> list[str]:
        """The keys of `to_rows`: figures, the settings that every study has, recipe keys that differ."""
        chosen = [key for one in self.settings[:1] for key in one]
        return list(dict.fromkeys([*RunRecord.__dataclass_fields__, *ALWAYS, *chosen]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "claim": CLAIM,
            "complete": self.complete,
            "features": self.features,
            "classifier": self.features,
            "metric": "accuracy",
            "rows": [row.to_dict() for row in self.rows],
            "runs": self.to_rows(),
            "distances": self.distances,
            "grid": list(self.grid),
            "images": asdict(self.images),
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """Tidy: one line for each run, with the columns of `to_rows`."""
        return csv_of(self.to_rows(), self.columns)

    def to_parquet(self) -> bytes:
        """The same table with types; its schema says which classifier, extractor and images it is about."""
        notes = {"claim": CLAIM, "classifier": self.features, "images": self.images.note}
        return parquet_of(self.to_rows(), self.columns, notes | {"distances": self.distances or "none"})

    def to_markdown(self) -> str:
        """The table, and what it does not claim."""
        lines = [_line(HEAD), _line(["---", "--:", "--:", "---", "---", "--:", "--:"])]
        lines += [_line(_cells(row)) for row in self.rows]
        shown = [f"![{name.rpartition('.')[0].replace('-', ' ')}]({name})" for name in self.pictures]
        return "\n".join([*lines, "", *self.notes, *(["", *shown] if shown else [])]) + "\n"

    @property
    def notes(self) -> list[str]:
        """What the table is about, and what it does not claim; a sentence each."""
        apart = "" if self.images.public_stand_in else f"; {NOT_COVERED}"
        notes = [
            f"accuracy of {self.features} on {self.images.tested_on}, trained on the synthetic images{apart}",
            CLAIM,
            self.images.note,
        ]
        if not self.complete:
            notes.append(f"{len(self.records)} of {self.planned} runs have finished")
        return [f"{note[0].upper()}{note[1:]}." for note in notes]

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        head = "".join(f"<th scope=col>{escape(name)}</th>" for name in HEAD)
        lines = ("".join(f"<td>{escape(text)}</td>" for text in _cells(row)) for row in self.rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: CellRow) -> list[str]:
    interval = "one seed" if row.low is None else f"{row.low:.2f} to {row.high:.2f}"
    values = ", ".join(f"{value:.2f}" for value in row.accuracies)
    epsilon = "∞" if row.epsilon is None else rounded_up_text(row.epsilon)
    numbers = [f"{row.expected_rows_at_most:,}", f"{row.trainable_parameters:,}"]
    return [row.cell, epsilon, f"{row.mean:.2f}", interval, values, *numbers]
