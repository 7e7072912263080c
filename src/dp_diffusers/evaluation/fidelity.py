"""Do synthetic images show what their labels say: the share that a teacher would label alike.

Guarantees that teachers learn from real images alone and never see the images they judge. May import numpy
and torch. GAN-test (Shmelkov, Schmid & Alahari 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from dp_diffusers.evaluation.classifier import accuracy_of
from dp_diffusers.evaluation.intervals import Interval, numbers
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.evaluation.rows import class_means


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Of one set: the share, in per cent, of its images whose label is each teacher's first choice.

    taught_by: what the teachers learnt from. agreement: one value for each of them. per_class: the mean of
    them for each label (NaN: the set has no such image).
    """

    of: str
    taught_by: str
    agreement: tuple[float, ...]
    per_class: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the teachers, in per cent."""
        return float(np.mean(self.agreement))

    @property
    def interval(self) -> Interval | None:
        """Over the teachers, None where there is one alone."""
        return Interval.of(self.agreement) if len(self.agreement) > 1 else None

    def to_dict(self) -> dict[str, float | None]:
        """{mean, low, high}; low and high are None with one teacher."""
        if self.interval is not None:
            return dict(self.interval.to_dict())
        return {"mean": round(self.mean, 3), "low": None, "high": None}

    def by_class(self, names: Sequence[str]) -> dict[str, float | None]:
        """Class → share in per cent, None for a class without images."""
        return numbers(self.per_class, names)

    def least(self, names: Sequence[str]) -> list[tuple[float, str]]:
        """The three classes with the smallest share."""
        return sorted(pair for pair in zip(self.per_class, names) if not math.isnan(pair[0]))[:3]


def fidelity_of(of: str, images: LabelledImages, teachers: Sequence[nn.Module], taught_by: str) -> Fidelity:
    """What `teachers` make of `images`."""
    pair: Any = (images.images, images.labels)
    results = [accuracy_of(teacher, pair, len(images.class_names)) for teacher in teachers]
    return Fidelity(
        of=of,
        taught_by=taught_by,
        agreement=tuple(result.accuracy for result in results),
        per_class=class_means(results),
    )
