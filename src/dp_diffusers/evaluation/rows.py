"""One row of an evaluation: what a classifier learnt from, and how it did on the reference.

Guarantees that each figure comes with its interval over seeds. May import numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dp_diffusers.evaluation.calibration import LARGEST
from dp_diffusers.evaluation.classifier import TestResult
from dp_diffusers.evaluation.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of training data: its accuracy, each class's, and how well the classifier is calibrated.

    per_class: means in per cent (NaN: not in the reference). per_class_interval: of the same, None for those.
    calibration: figure → interval over seeds, see `calibration.Calibration`.
    """

    trained_on: str
    images: int
    accuracy: Interval
    per_class: tuple[float, ...]
    per_class_interval: tuple[Interval | None, ...] = ()
    calibration: Mapping[str, Interval] = field(default_factory=dict)

    @classmethod
    def of(cls, trained_on: str, images: int, results: Sequence[TestResult]) -> Row:
        """Summarises one result per seed, two or more."""
        tests = [result.calibration.to_dict() for result in results]
        return cls(
            trained_on=trained_on,
            images=images,
            accuracy=Interval.of([result.accuracy for result in results]),
            per_class=class_means(results),
            per_class_interval=tuple(
                None if np.isnan(values).any() else Interval.of(values)
                for values in zip(*(result.per_class for result in results))
            ),
            calibration={
                name: Interval.of([test[name] for test in tests], highest)
                for name, highest in LARGEST.items()
            },
        )


def class_means(results: Sequence[TestResult]) -> tuple[float, ...]:
    """Mean accuracy of each class in per cent, NaN for a class that was not tested."""
    return tuple(np.mean([result.per_class for result in results], axis=0).tolist())
