"""What an evaluation found: accuracies with their intervals, distances, and what they may be compared with.

Guarantees that an accuracy comes with its interval over seeds, a distance with its extractor, and synthetic
data with its ε = 0 rows where they are known. May import numpy and scipy. Student's interval over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from dp_diffusers.evaluation.classifier import TestResult
from dp_diffusers.evaluation.distances import Distances, figure_names, require_one_extractor
from dp_diffusers.evaluation.distances_table import table

NOT_COVERED = "held-out reference: not covered by ε"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds in per cent, and its 95 % interval, cut to [0, 100]."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Student's 95 % interval of two values or more."""
        mean = float(np.mean(values))
        reach = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
        return cls(mean=mean, low=max(0.0, mean - reach), high=min(100.0, mean + reach))

    def to_dict(self) -> dict[str, float]:
        """{mean, low, high}, rounded to a thousandth."""
        return {name: round(getattr(self, name), 3) for name in ("mean", "low", "high")}

    def __str__(self) -> str:
        return f"{self.mean:.2f} % ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of training data: its accuracy, and each class's mean accuracy (NaN: not in the reference)."""

    trained_on: str
    images: int
    accuracy: Interval
    per_class: tuple[float, ...]

    @classmethod
    def of(cls, trained_on: str, images: int, results: Sequence[TestResult]) -> Row:
        """Summarises one result per seed."""
        per_class = np.mean([result.per_class for result in results], axis=0)
        accuracy = Interval.of([result.accuracy for result in results])
        return cls(
            trained_on=trained_on, images=images, accuracy=accuracy, per_class=tuple(per_class.tolist())
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Test accuracy of a classifier trained on synthetic images, and distances, beside those of public data.

    synthetic: the images alone. public_model: images of the base without adapter (ε = 0), where it is known.
    public: public images themselves (ε = 0). with_public: synthetic and public images together.
    distances: of the synthetic images, then of the public model's where they are known; empty without them.
    read_by: the figures that real images went into. Raises `ParameterError` for distances by two extractors.
    """

    synthetic: Row
    public_model: Interval | None = None
    public: Interval | None = None
    with_public: Interval | None = None
    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    reference_images: int
    classifier: str
    seeds: int
    passes: int
    distances: tuple[Distances, ...] = ()
    read_by: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_one_extractor(self.distances)

    @property
    def features(self) -> str | None:
        """The extractor of the distances, None without distances."""
        return self.distances[0].features if self.distances else None

    @property
    def reads_private(self) -> bool:
        """Whether real images went into any figure."""
        return bool(self.read_by)

    @property
    def accuracy(self) -> Interval:
        """Accuracy in per cent of training on the synthetic images alone."""
        return self.synthetic.accuracy

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `evaluate`; accuracies in per cent, distances null where not asked for."""
        known = {"public_model": self.public_model, "public": self.public, "with_public": self.with_public}
        return {
            "accuracy": self.accuracy.to_dict(),
            **self._figures(self.synthetic.trained_on),
            **{name: None if value is None else value.to_dict() for name, value in known.items()},
            "rows": [self._row(row) for row in self.rows],
            "features": self.features,
            "features_sha256": self.distances[0].sha256 if self.distances else None,
            "reference_images": self.reference_images,
            "classifier": self.classifier,
            "seeds": self.seeds,
            "passes": self.passes,
            "reads_private": self.reads_private,
            "read_by": list(self.read_by),
            "covered_by_epsilon": not self.reads_private,
            "notes": list(self.notes),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        per_class = {
            name: None if math.isnan(value) else round(value, 3)
            for name, value in zip(self.class_names, row.per_class)
        }
        facts = {"trained_on": row.trained_on, "images": row.images, **row.accuracy.to_dict()}
        return {**facts, **self._figures(row.trained_on), "per_class": per_class}

    def _figures(self, of: str) -> dict[str, float | None]:
        """Every figure of distance of one row; None where it was not computed."""
        found = {name: value for one in self.distances if one.of == of for name, value in one.figures.items()}
        return {name: found.get(name) for name in figure_names()}

    def explain(self) -> str:
        """The rows as text, for a terminal."""
        width = max(len(row.trained_on) for row in self.rows)
        lines = [f"accuracy of {self.classifier} on the reference, 95 % interval over {self.seeds} seeds:"]
        lines += [f"  {row.trained_on:<{width}}  {row.accuracy}  {row.images} images" for row in self.rows]
        named = [pair for pair in zip(self.synthetic.per_class, self.class_names) if not math.isnan(pair[0])]
        weakest = ", ".join(f"{name} ({value:.1f} %)" for value, name in sorted(named)[:3])
        lines += [f"weakest classes: {weakest}", *table(self.distances), *self.notes]
        # every figure so far reads real images; one that does not would still stand under this line, safely
        return "\n".join([*lines, NOT_COVERED])
