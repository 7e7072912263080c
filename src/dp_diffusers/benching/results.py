"""Rows of a benchmark, as plain data and as a table.

Guarantees that a row without a time says why. May import the standard library alone. The fields of the JSON
document are the design's, and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dp_diffusers.benching.case import OURS, PLAIN
from dp_diffusers.benching.measuring import geometric_mean

RIGHT: Final = 1e-3  # a gradient with a smaller error is right


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine in one case, in ratios to the plain step of the same rows.

    low, high: an interval of the median of `confidence`. seconds: the median of the engine's own times.
    memory_bytes: peak of a step above the libraries (see `memory`). gradient_error: of the clipped sum beside
    batches of one, relative, on a tiny model; of the plain step, of the sum without a clip. reason: why there
    is no time, or no gradient error.
    """

    family: str
    strategy: str
    engine: str
    units: int
    noise_draws: int
    dtype: str
    time_ratio: float | None = None
    memory_ratio: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    gradient_error: float | None = None
    reason: str | None = None

    @property
    def right(self) -> bool | None:
        """Whether its gradient is right; None where that is not known."""
        return None if self.gradient_error is None else self.gradient_error < RIGHT

    @property
    def case(self) -> str:
        """The case in words."""
        return f"{self.family}, {self.strategy}, {self.units} units x {self.noise_draws}, {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """All rows, the device in words, and how they were measured; `profiles`: texts by name of the case."""

    rows: Sequence[Row]
    device: str
    settings: dict[str, Any]
    profiles: Sequence[dict[str, Any]] = ()
    out: Path | None = None

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """This engine by strategy: geometric mean and worst of the time ratios, and of the memory ratios."""
        ours = [row for row in self.rows if row.engine == OURS and row.time_ratio is not None]
        return {
            name: _summary([row for row in ours if row.strategy == name])
            for name in dict.fromkeys(row.strategy for row in ours)
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        document: dict[str, Any] = {"rows": [asdict(row) for row in self.rows], "device": self.device}
        document |= {"settings": self.settings, "summary": self.summary}
        return document | ({"profiles": list(self.profiles)} if self.profiles else {})

    def to_markdown(self) -> str:
        """A table a case, then the summary of this engine."""
        parts = [f"{self.device}; ratios to the plain step"]
        for case in dict.fromkeys(row.case for row in self.rows):
            parts.append(_table(case, [row for row in self.rows if row.case == case]))
        lines = [
            f"{OURS}, {name}: {found['geometric_mean']:.3f} (worst {found['worst']:.3f}) over "
            f"{found['cases']} cases"
            for name, found in self.summary.items()
        ]
        return "\n\n".join([*parts, "\n".join(lines), *(profile["text"] for profile in self.profiles)])


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    times = [row.time_ratio for row in rows if row.time_ratio is not None]
    memory = [row.memory_ratio for row in rows if row.memory_ratio is not None]
    return {
        "geometric_mean": geometric_mean(times),
        "worst": max(times),
        "worst_memory": max(memory, default=None),
        "cases": len(times),
    }


def _table(case: str, rows: Sequence[Row]) -> str:
    plain = next((row.seconds for row in rows if row.engine == PLAIN), None)
    title = case if plain is None else f"{case}: plain step {plain:.2f} s"
    head = ["| engine | time | interval | memory | gradient |", "|---|---|---|---|---|"]
    return "\n".join([title, "", *head, *map(_line, rows)])


def _line(row: Row) -> str:
    if row.time_ratio is None:
        return f"| {row.engine} | – | – | – | {row.reason} |"
    memory = "–" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"
    reach = f"{row.low:.2f} to {row.high:.2f}"
    return f"| {row.engine} | {row.time_ratio:.2f} | {reach} | {memory} | {_gradient(row)} |"


def _gradient(row: Row) -> str:
    if row.right is None:
        return row.reason or "–"
    return "right" if row.right else f"wrong: off by {100 * (row.gradient_error or 0):.0f} %"
