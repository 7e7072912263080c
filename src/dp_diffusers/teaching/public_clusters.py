"""Groups of images, public or released, in the space that a teacher sees, and the one that an image is of.

Guarantees that the group of an image is a function of that image and of public numbers alone, bit for bit:
distances are exact, so that nobody else's presence moves a tie. May import numpy and scikit-learn. Source:
k-means (Lloyd 1982) in small batches (Sculley 2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError
from dp_diffusers.evolution.features import nearest

FINE: Final = 2.0**14  # rows are at most 1 long: whole numbers of this size keep four digits of each
PER_CLUSTER: Final = 5  # images that are drawn for each
MOST_PER_CLUSTER: Final = 20  # images that are looked at for each
_BATCH: Final = 4096
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """centres: float64 `[K, width]`, in the place of the rows of `Whitening`."""

    centres: Floats

    def __len__(self) -> int:
        return len(self.centres)

    def of(self, rows: Floats) -> NDArray[np.int64]:
        """int64 `[N]` of rows `[N, width]`: the nearest centre; -1 for a row of zeros, no image's."""
        found = nearest(rows * FINE, self.centres * FINE)
        return np.where(rows.any(1), found, -1)


def clusters_of(rows: Floats, count: int) -> Clusters:
    """From rows of public or released images. Raises `ParameterError` for fewer than clusters."""
    from sklearn.cluster import MiniBatchKMeans

    if len(rows) < count:
        raise ParameterError(
            f"{count} clusters need as many images at least, got {len(rows)}",
            hint="lower teacher.clusters, or give more images at teacher.public",
        )
    found = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=_BATCH).fit(rows)
    return Clusters(centres=np.asarray(found.cluster_centers_, np.float64))
