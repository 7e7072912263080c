"""Does a classifier know how sure it may be: calibration error, Brier score, log loss.

Guarantees that each is computed from the probabilities of one test and nothing is fitted to it. May import
numpy. Expected calibration error in 15 bins of equal width (Guo et al. 2017), Brier score (Brier 1950).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15
SMALLEST: Final = 1e-12  # a probability is taken for at least this, so that one mistake is not infinite
# figure → its largest possible value
LARGEST: Final = {"calibration_error": 100.0, "brier_score": 2.0, "log_loss": float("inf")}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one test; 0 is best in each.

    calibration_error: mean distance, in per cent, between how sure it was and how often it was right.
    brier_score: mean squared distance of the probabilities to the truth, in [0, 2]. log_loss: in nats.
    """

    calibration_error: float
    brier_score: float
    log_loss: float

    def to_dict(self) -> dict[str, float]:
        """Name → value."""
        return asdict(self)


def calibration_of(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Of `probabilities` [N, classes], whose rows sum to 1, and the true `labels` [N]."""
    rows = np.arange(len(labels))
    of_truth = probabilities[rows, labels]
    # sum over classes of (p - truth)², without a second array of that size
    squares = (probabilities**2).sum(1) - 2 * of_truth + 1
    return Calibration(
        calibration_error=100 * _expected_error(probabilities.max(1), probabilities.argmax(1) == labels),
        brier_score=float(squares.mean()),
        log_loss=float(-np.log(np.maximum(of_truth, SMALLEST)).mean()),
    )


def _expected_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Bins (0, 1/15], (1/15, 2/15], …: |mean confidence - share that is right|, weighted by their images."""
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))
