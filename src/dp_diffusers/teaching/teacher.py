"""The classifier that a run released beside its adapter, and the labels that it gives to images.

Guarantees that a label is a function of the image and of the released file alone, and that the file names the
extractor and the hash of its weights. May import numpy and evaluation/; torch comes with the extractor.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.errors import ModelError
from dp_diffusers.evaluation.features import Features, features_named, network_file
from dp_diffusers.privacy.certificate import TEACHER_FILE
from dp_diffusers.privacy.teacher_features import NETWORK_FILE
from dp_diffusers.teaching.public_whitening import Whitening
from dp_diffusers.teaching.teacher_kinds import Counted, Kind, kind_of
from dp_diffusers.tensor_file import damaged, read_tensors, write_tensors

FILE: Final = TEACHER_FILE  # in a release
NETWORK: Final = NETWORK_FILE  # beside it, where the features are of a network of one's own


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """kind: what answers for each of `classes`; features, sha256: of the extractor.

    network: where that lies, for one that `pretrain` made.
    """

    features: str
    sha256: str | None
    classes: ReleasedClasses
    whitening: Whitening
    kind: Kind
    network: Path | None = None

    @property
    def has_clusters(self) -> bool:
        """Whether it can choose among images."""
        return isinstance(self.kind, Counted)

    def judged(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        """int64 `[N]` of uint8 `[N, H, W, C]`: the place of each image's class, -1 for none.

        Of a teacher with clusters also weights, float64 `[N]`: images that are chosen in proportion to them
        are spread over the clusters as the private units are. Raises as `answers`.
        """
        kind, found = self.kind, np.empty(len(images), np.int64)
        cluster = np.full(len(images), -1)
        for where, rows in self.whitening.of_images(self._extractor(), images):
            if isinstance(kind, Counted):
                cluster[where] = kind.clusters.of(rows)
                found[where] = kind.labels_in(rows, cluster[where])
            else:
                found[where] = kind.labels(rows)
        return found, kind.weights(cluster) if isinstance(kind, Counted) else None

    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """int64 `[N]` of uint8 `[N, H, W, C]`: the place of each image's class, -1 for none. As `answers`."""
        return self.judged(images)[0]

    def rarity(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 `[C]`: each class's share of the images, `shares`, over its share of the units that count.

        Weights times these lean towards that share; they meet it where there is no noise and every image has
        the one class that its cluster counts. Of a teacher with clusters.
        """
        assert isinstance(self.kind, Counted)
        units = self.kind.of_class
        return np.where(units > 0, shares / np.maximum(units / max(units.sum(), 1.0), 1e-9), 0.0)

    def answers(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """float64 `[N, classes]` of uint8 `[N, H, W, C]`: large for an image's class; zeros for no class.

        Raises `ModelError` where the extractor is not there, or has other weights.
        """
        found = np.empty((len(images), len(self.classes.labels)))
        for where, rows in self.whitening.of_images(self._extractor(), images):
            found[where] = self.kind.answers(rows)
        return found

    def save(self, release: Path) -> None:
        """Writes `teacher.safetensors`: mean, projection, arrays of its kind, and what they are of."""
        tensors = {"mean": self.whitening.mean, "projection": self.whitening.projection}
        classes = {"labels": list(self.classes.labels), "names": self.classes.names}
        about = {"features": self.features, "sha256": self.sha256, "classes": classes}
        words = {"teacher": json.dumps(about, ensure_ascii=False)}
        write_tensors(release / FILE, {**tensors, **self.kind.arrays()}, words)
        if self.network is not None:
            shutil.copyfile(network_file(self.network), release / NETWORK)

    def _extractor(self) -> Features:
        found = features_named(self.features if self.network is None else str(self.network))
        if found.sha256 != self.sha256:
            raise ModelError(
                f"features {self.features} have other weights here than the teacher was made with",
                hint="set generation.teacher to off",
            )
        return found


def saved_teacher(release: Path) -> Teacher | None:
    """The teacher of a release; None for one without. Raises `RunFolderError` for a damaged file."""
    path = release / FILE
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    try:
        about: dict[str, Any] = json.loads(metadata["teacher"])
        names = about["classes"]["names"]
        return Teacher(
            features=str(about["features"]),
            sha256=about["sha256"],
            classes=ReleasedClasses(
                labels=tuple(about["classes"]["labels"]), names=None if names is None else tuple(names)
            ),
            whitening=Whitening(mean=tensors["mean"], projection=tensors["projection"]),
            kind=kind_of(tensors),
            network=release / NETWORK if (release / NETWORK).exists() else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path) from error
