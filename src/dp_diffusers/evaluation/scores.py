"""What an evaluation found: accuracies with their intervals, distances, and what they may be compared with.

Guarantees that an accuracy comes with its interval over seeds, a distance with its extractor, and synthetic
data with its ε = 0 rows where they are known. May import numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from dp_diffusers.evaluation.calibration import LARGEST
from dp_diffusers.evaluation.distances import Distances, figure_names, require_one_extractor
from dp_diffusers.evaluation.diversity import OF_REFERENCE, Diversity
from dp_diffusers.evaluation.fidelity import Fidelity
from dp_diffusers.evaluation.intervals import Interval, numbers
from dp_diffusers.evaluation.rows import Row

NOT_COVERED: Final = "held-out reference: not covered by ε"
REAL_NOT_COVERED: Final = "real images to train on: read for this evaluation, not covered by ε"
REAL_IS_TRAINING_DATA: Final = (
    "real images to train on: the run's own training images, read for this evaluation, not covered by ε; "
    "figures by them stay inside the safe"
)
REAL_IS_UNKNOWN: Final = (
    "real images to train on: they may be the run's own training images, which cannot be told; read for this "
    "evaluation, not covered by ε; figures by them stay inside the safe"
)
REAL: Final = "real images, not private"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Test accuracy of a classifier trained on synthetic images, and distances, beside those of public data.

    synthetic: the images alone. public_model: images of the base without adapter (ε = 0), where it is known.
    public: public images themselves (ε = 0). with_public: synthetic and public images together. real: real
    images, the ceiling. distances, diversity, fidelity: of the synthetic images, then of the public model's
    where they are known; empty where they were not computed. read_by: the figures that real images went
    into. real_is_training_data: whether `real` holds images that the run was trained on, None where that
    cannot be told. Raises `ParameterError` for distances by two extractors.
    """

    synthetic: Row
    public_model: Interval | None = None
    public: Interval | None = None
    with_public: Interval | None = None
    real: Interval | None = None
    real_is_training_data: bool | None = False
    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    reference_images: int
    classifier: str
    seeds: int
    passes: int
    distances: tuple[Distances, ...] = ()
    diversity: tuple[Diversity, ...] = ()
    fidelity: tuple[Fidelity, ...] = ()
    read_by: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_one_extractor([*self.distances, *self.diversity])

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

    @property
    def not_covered(self) -> list[str]:
        """What has to be said with every figure."""
        if self.real is None:
            return [NOT_COVERED]
        said = {False: REAL_NOT_COVERED, True: REAL_IS_TRAINING_DATA, None: REAL_IS_UNKNOWN}
        return [NOT_COVERED, said[self.real_is_training_data]]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `evaluate`, whose fields are in docs/guides/evaluate.md.

        Shares in per cent; null for what was not asked for.
        """
        known = {"public_model": self.public_model, "public": self.public, "with_public": self.with_public}
        known["real"] = self.real
        return {
            "accuracy": self.accuracy.to_dict(),
            **self._figures(self.synthetic),
            **{name: None if value is None else value.to_dict() for name, value in known.items()},
            "rows": [self._row(row) for row in self.rows],
            "features": self.features,
            "features_sha256": self.distances[0].sha256 if self.distances else None,
            "reference_images": self.reference_images,
            "classifier": self.classifier,
            "seeds": self.seeds,
            "passes": self.passes,
            "fidelity_taught_by": self.fidelity[0].taught_by if self.fidelity else None,
            "reads_private": self.reads_private,
            "read_by": list(self.read_by),
            "covered_by_epsilon": not self.reads_private,
            "real_is_training_data": self.real_is_training_data,
            "not_covered": self.not_covered,
            "notes": list(self.notes),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        intervals = {
            name: None if value is None else value.to_dict()
            for name, value in zip(self.class_names, row.per_class_interval)
        }
        return {
            "trained_on": row.trained_on,
            "images": row.images,
            **row.accuracy.to_dict(),
            **self._figures(row),
            "per_class": numbers(row.per_class, self.class_names),
            "per_class_interval": intervals,
            **self._by_class(row.trained_on),
        }

    def _figures(self, row: Row) -> dict[str, Any]:
        """Every figure of one row but its accuracy; None where it was not computed."""
        distances = {
            name: value
            for one in self.distances
            if one.of == row.trained_on
            for name, value in one.figures.items()
        }
        means = {
            name: None if math.isnan(value) else round(value, 4)
            for one in self.diversity
            if one.of == row.trained_on
            for name, value in one.means().items()
        }
        agreed = [one.to_dict() for one in self.fidelity if one.of == row.trained_on]
        return {
            **{name: distances.get(name) for name in figure_names()},
            **{name: row.calibration[name].to_dict() if row.calibration else None for name in LARGEST},
            "label_fidelity": agreed[0] if agreed else None,
            **{name: means.get(name) for name in ("diversity", *OF_REFERENCE)},
        }

    def _by_class(self, of: str) -> dict[str, Any]:
        """Fidelity and diversity of each class, where they were computed."""
        found: dict[str, Any] = {}
        for agreed in self.fidelity:
            if agreed.of == of:
                found["label_fidelity_per_class"] = agreed.by_class(self.class_names)
        for one in self.diversity:
            if one.of == of:
                found["diversity_per_class"] = numbers(one.per_class, self.class_names, 4)
                found["diversity_ratio_per_class"] = numbers(one.ratio, self.class_names, 4)
        return found

    def explain(self) -> str:
        """The rows as text, for a terminal."""
        from dp_diffusers.evaluation.scores_text import explained

        return explained(self)

    def _repr_html_(self) -> str:
        from dp_diffusers.evaluation.scores_html import as_html

        return as_html(self)
