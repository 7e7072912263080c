"""What an evaluation left, as a page may show it.

Guarantees that nothing of it is shown but names of rows and classes, accuracies with their intervals and
distances: no path, no note about a file, no count of real images. May import the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

# rows whose images are synthetic or public, so that their number is no secret
_COUNTED: Final = ("synthetic", "public model, ε = 0", "public images, ε = 0", "synthetic and public")
_DISTANCES: Final = ("fid", "kid", "precision", "recall", "density", "coverage")


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Accuracy in per cent and its 95 % interval. images: how many were learnt from; None if not public."""

    trained_on: str
    mean: float
    low: float
    high: float
    images: int | None
    per_class: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ShownScores:
    """rows: the synthetic images first. distances: name → value, of those that were measured."""

    rows: tuple[ScoreRow, ...]
    seeds: int
    features: str
    distances: Mapping[str, float]

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the synthetic images."""
        return list(self.rows[0].per_class)

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
        features=str(document["features"]),
        distances={name: value for name in _DISTANCES if (value := _value(document.get(name))) is not None},
    )


def _row(row: Mapping[str, Any]) -> ScoreRow:
    name = str(row["trained_on"])
    return ScoreRow(
        trained_on=name,
        images=int(row["images"]) if name in _COUNTED else None,
        per_class=dict(row["per_class"]),
        **{bound: float(row[bound]) for bound in ("mean", "low", "high")},
    )


def _value(found: Any) -> float | None:
    """A number, or the mean of one that comes with an interval."""
    if isinstance(found, Mapping):
        found = found.get("mean", found.get("value"))
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
