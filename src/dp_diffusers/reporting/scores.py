"""What an evaluation left, as a page may show it.

Guarantees that nothing of it is shown but names of rows, classes, classifier and extractor, accuracies with
their intervals and other figures: no path, no note about a file, no count of real images. May import the
standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

# rows whose images are synthetic or public, so that their number is no secret
_COUNTED: Final = ("synthetic", "public model, ε = 0", "public images, ε = 0", "synthetic and public")
# figure → what a column of it is called
MEASURES: Final = {
    "label_fidelity": "label fidelity, %",
    "calibration_error": "calibration error, %",
    "diversity_ratio": "diversity ÷ real",
}
# what a column is called → the field of a row of `evaluate` that has it, class → value
BY_CLASS: Final = {
    "interval": "per_class_interval",
    "label fidelity, %": "label_fidelity_per_class",
    "diversity ÷ real": "diversity_ratio_per_class",
}
REAL: Final = "real images, not private"
# what classifiers judge that learnt from the images of `evaluate --real`: by measures, and class by class
_JUDGED_BY_REAL: Final = ("label_fidelity", "label fidelity, %")
# figure of a row → what a column of it is called
DISTANCES: Final = {
    "fid": "Fréchet",
    "kid": "KID × 1,000",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
_FID: Final = "inception"  # only by this extractor is a Fréchet distance called FID


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Accuracy in per cent and its 95 % interval. images: how many were learnt from; None if not public.

    measures: name → mean, of those of `MEASURES` that were computed. by_class: the same for each class.
    distances: name → value, of those of `DISTANCES` that were computed.
    """

    trained_on: str
    mean: float
    low: float
    high: float
    images: int | None
    per_class: Mapping[str, float | None]
    measures: Mapping[str, float] = field(default_factory=dict)
    by_class: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShownScores:
    """rows: the synthetic images first. features: the extractor, None where nothing was measured by one.

    by_real: whether any figure comes from real images to train on (`evaluate --real`).
    """

    rows: tuple[ScoreRow, ...]
    seeds: int
    classifier: str
    features: str | None
    by_real: bool = False

    def without_real(self) -> ShownScores:
        """What may go into a release: nothing that comes from real images to train on.

        These may be the run's own training images, whose ε such a figure would go around.
        """
        if not self.by_real:
            return self
        rows = (row for row in self.rows if row.trained_on != REAL)
        return replace(self, rows=tuple(_unjudged(row) for row in rows), by_real=False)

    @property
    def distances(self) -> Mapping[str, str]:
        """What the columns of distances are called, of those that the synthetic images have."""
        called = {**DISTANCES, "fid": "FID"} if (self.features or "").startswith(_FID) else DISTANCES
        return {name: head for name, head in called.items() if name in self.rows[0].distances}

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the synthetic images."""
        return list(self.rows[0].per_class)

    @property
    def measures(self) -> list[str]:
        """Names in `MEASURES` that a row has."""
        return [name for name in MEASURES if any(name in row.measures for row in self.rows)]

    @property
    def heads(self) -> Mapping[str, str]:
        """What the columns of `measures` are called."""
        return MEASURES

    @property
    def class_measures(self) -> list[str]:
        """Names in `BY_CLASS` that the synthetic images have."""
        return [name for name in BY_CLASS if name in self.rows[0].by_class]

    @property
    def real_row(self) -> bool:
        """Whether a row learnt from real images."""
        return any(row.trained_on == REAL for row in self.rows)

    @property
    def counts(self) -> list[int]:
        """Every number of images that is shown."""
        return [row.images for row in self.rows if row.images is not None]

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def shown_scores(document: Mapping[str, Any] | None) -> ShownScores | None:
    """What may be shown of the document of `evaluate`; None for none."""
    if document is None or not document.get("rows"):
        return None
    return ShownScores(
        rows=tuple(_row(row) for row in document["rows"]),
        seeds=int(document["seeds"]),
        classifier=str(document["classifier"]),
        features=None if document["features"] is None else str(document["features"]),
        by_real=_by_real(document),
    )


def _by_real(document: Mapping[str, Any]) -> bool:
    """Told by each of three places: one that an older document lacks must not decide it."""
    named = any(row["trained_on"] == REAL for row in document["rows"])
    return named or "real" in document.get("read_by", ()) or document.get("fidelity_taught_by") == REAL


def _unjudged(row: ScoreRow) -> ScoreRow:
    """The row without the measures that classifiers trained on real images made."""
    return replace(
        row,
        measures={name: value for name, value in row.measures.items() if name not in _JUDGED_BY_REAL},
        by_class={name: value for name, value in row.by_class.items() if name not in _JUDGED_BY_REAL},
    )


def _row(row: Mapping[str, Any]) -> ScoreRow:
    name = str(row["trained_on"])
    return ScoreRow(
        trained_on=name,
        images=int(row["images"]) if name in _COUNTED else None,
        per_class=dict(row["per_class"]),
        measures={name: value for name in MEASURES if (value := _value(row.get(name))) is not None},
        distances={name: value for name in DISTANCES if (value := _value(row.get(name))) is not None},
        by_class={name: dict(row[key]) for name, key in BY_CLASS.items() if row.get(key)},
        **{bound: float(row[bound]) for bound in ("mean", "low", "high")},
    )


def _value(found: Any) -> float | None:
    """A number, or the mean of one that comes with an interval."""
    if isinstance(found, Mapping):
        found = found.get("mean", found.get("value"))
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
