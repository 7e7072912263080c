"""What a near-copy check finds, for the safe alone: distances, shares, the closest pairs.

Guarantees nothing of privacy: all of it is computed from private images, and stays where they are. May import
numpy. Area under the curve with its variance by structural components: DeLong et al. 1988.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.traces import picture_digest

QUANTILES: Final = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)
PAIRS: Final = 16
PIXEL_COPY: Final = 8.0  # root mean square of the difference in grey levels of 255
_NORMAL_95: Final = 1.96


def copy_report(
    data: PrivateImages,
    synthetic: NDArray[np.uint8],
    distance: NDArray[np.float64],
    place: NDArray[np.int64],
    held_out: NDArray[np.float64],
    threshold: float,
    to_training: NDArray[np.float64],
    resolution: float,
) -> dict[str, Any]:
    """The figures as a document. distance, place: of each training image `[N]`, see `Nearest.of`.

    held_out: distances of the held-out images `[M]` to synthetic ones; to_training: to training images.
    Training images are numbered as in the source, from 0. A distance that is not finite is null.
    """
    apart = pixel_difference(data.images, synthetic[place])
    known = {picture_digest(image) for image in synthetic}
    exact = np.array([picture_digest(image) in known for image in data.images])
    rows = np.delete(np.arange(len(distance) + len(data.dropped)), data.dropped)
    return {
        "training_images": len(distance),
        "training_images_without_features": int(np.isinf(distance).sum()),
        "training_units": data.unit_count,
        "held_out_images": len(held_out),
        "synthetic_images": len(synthetic),
        "threshold": threshold,
        "nearer_than_threshold": {
            "training": float((distance < threshold).mean()),
            "held_out": float((held_out < threshold).mean()),
        },
        "quantiles": {"training": _quantiles(distance), "held_out": _quantiles(held_out)},
        "auc": auc(distance, data.owner, data.unit_count, held_out),
        "held_out_to_training": {
            "quantiles": _quantiles(to_training),
            "copies": int((to_training < resolution).sum()),
            "nearer_than_threshold": int((to_training < threshold).sum()),
        },
        "exact_copies": int(exact.sum()),
        "pixel_copies": int((apart <= PIXEL_COPY).sum()),
        "closest": [
            {
                "training_image": int(rows[index]),
                "unit": int(data.owner[index]),
                "synthetic_image": int(place[index]),
                "distance": _finite(distance[index]),
                "pixel_difference": round(float(apart[index]), 3),
            }
            for index in closest(distance)
        ],
    }


def closest(distance: NDArray[np.float64]) -> NDArray[np.int64]:
    """The places of the 16 training images nearest to a synthetic one, nearest first."""
    found: NDArray[np.int64] = np.argsort(distance, kind="stable")[:PAIRS]
    return found


def pixel_difference(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """float64 `[N]`: root mean square of the difference of each pair, in grey levels."""
    found = np.empty(len(images))
    for start in range(0, len(images), 512):
        part = slice(start, start + 512)
        gap = images[part].astype(np.float64) - others[part]
        found[part] = np.sqrt((gap**2).mean((1, 2, 3)))
    return found


def auc(
    distance: NDArray[np.float64], owner: NDArray[np.int64], units: int, held_out: NDArray[np.float64]
) -> dict[str, float]:
    """How often a training unit's image is nearer than a held-out one, ties as half; 0.5 is no difference.

    Each unit counts once, by the mean of its images; the 95 % interval is over units and held-out images.
    """
    nearer = 1.0 - _share_below(held_out, np.ones(len(held_out)), distance)
    images = np.maximum(np.bincount(owner, minlength=units), 1)
    of_units = np.bincount(owner, weights=nearer, minlength=units) / images
    of_held_out = _share_below(distance, 1.0 / images[owner], held_out)
    variance = _variance(of_units) / max(units, 1) + _variance(of_held_out) / len(held_out)
    mean, reach = float(of_units.mean()), _NORMAL_95 * math.sqrt(variance)
    return {"mean": mean, "low": max(mean - reach, 0.0), "high": min(mean + reach, 1.0)}


def _share_below(
    values: NDArray[np.float64], weight: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The weighted share of `values` below each of `at`, those equal to it as half."""
    order = np.argsort(values, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(weight[order])])
    low, high = (np.searchsorted(values[order], at, side=side) for side in ("left", "right"))
    found: NDArray[np.float64] = (sums[low] + sums[high]) / (2.0 * sums[-1])
    return found


def _variance(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _quantiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    with np.errstate(invalid="ignore"):  # between two infinite distances lies no number
        found = np.quantile(values, QUANTILES)
    return {f"{share:g}": _finite(value) for share, value in zip(QUANTILES, found, strict=True)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
