"""Distances of synthetic images to held-out real ones: every metric of the table, by one extractor.

Guarantees that each figure names its extractor, that figures of different extractors are never set side by
side, and that a metric reaches the reference through its gate alone. May import numpy. A metric is one file
and one line in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from dp_diffusers.evaluation.embedding import Embedded, same_features
from dp_diffusers.evaluation.frechet import frechet_distance
from dp_diffusers.evaluation.held_out import HeldOut, Reader
from dp_diffusers.evaluation.kernel_distance import kernel_distance
from dp_diffusers.evaluation.neighbours import neighbourhood

if TYPE_CHECKING:
    from dp_diffusers.evaluation.diversity import Diversity

Progress = Callable[..., None]
Metric = Callable[[Embedded, Reader, Progress], dict[str, float]]
FEWEST: Final = 10


def _frechet(synthetic: Embedded, real: Reader, progress: Progress) -> dict[str, float]:
    return {"fid": frechet_distance(synthetic, real.embedded(synthetic.features, progress))}


def _kernel(synthetic: Embedded, real: Reader, progress: Progress) -> dict[str, float]:
    mean, error = kernel_distance(synthetic, real.embedded(synthetic.features, progress), progress=progress)
    return {"kid": mean, "kid_standard_error": error}


def _neighbours(synthetic: Embedded, real: Reader, progress: Progress) -> dict[str, float]:
    found = neighbourhood(synthetic, real.embedded(synthetic.features, progress), progress=progress)
    return asdict(found)


# the figures of a metric → the metric; a figure that is not listed is refused
METRICS: Final[dict[tuple[str, ...], Metric]] = {
    ("fid",): _frechet,
    ("kid", "kid_standard_error"): _kernel,
    ("precision", "recall", "density", "coverage"): _neighbours,
}


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The figures of one set of images. `images`, `reference`: how many there were of each."""

    of: str
    features: str
    sha256: str | None
    frechet_name: str
    images: int
    reference: int
    figures: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """{fid, kid, kid_standard_error, precision, recall, density, coverage}."""
        return dict(self.figures)


def figure_names() -> tuple[str, ...]:
    """Every figure of the table, in its order."""
    return tuple(name for names in METRICS for name in names)


def measured(of: str, synthetic: Embedded, reference: HeldOut, progress: Progress) -> Distances:
    """All figures of images that an extractor has seen, each metric through a gate of its own."""
    features = synthetic.features
    figures: dict[str, float] = {}
    for names, metric in METRICS.items():
        progress(message=f"{of}: {', '.join(names)}")
        found = metric(synthetic, reference.reader(*names), progress)
        figures |= {name: found[name] for name in names}
    return Distances(
        of=of,
        features=features.name,
        sha256=features.sha256,
        frechet_name=features.frechet_name,
        images=synthetic.count,
        reference=reference.count,
        figures=figures,
    )


def require_one_extractor(figures: Sequence[Distances | Diversity]) -> None:
    """Raises `ParameterError` where figures that are to stand side by side come from different extractors."""
    for one in figures:
        same_features((figures[0].features, figures[0].sha256), (one.features, one.sha256))
