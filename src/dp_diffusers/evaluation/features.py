"""What turns images into the vectors that distances compare: named, of fixed weights, never trained here.

Guarantees that the name of an extractor is part of every figure, and that weights are those whose SHA-256 is
known. May import numpy; the extractors import torch when they are opened. An extractor is one file and one
line in `EXTRACTORS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import ParameterError, unknown_name

DEFAULT: Final = "efficientnet-lite0-64"
INCEPTION: Final = "inception-v3"
OWN_FILE: Final = "features.safetensors"
EXTRACTORS: Final = {
    DEFAULT: "dp_diffusers.evaluation.efficientnet:extractor",
    "efficientnet-lite0-128": "dp_diffusers.evaluation.efficientnet:larger",
    INCEPTION: "dp_diffusers.evaluation.inception:extractor",
}


@dataclass(frozen=True, kw_only=True)
class Features:
    """An extractor: uint8 images [N, H, W, C] to float vectors [N, dim].

    name: printed with every figure, so it says what was done to the images too. sha256: of the weights, None
    for an extractor without any. function: must treat each image on its own.
    """

    name: str
    dim: int
    sha256: str | None = None
    function: Callable[[NDArray[np.uint8]], NDArray[np.floating]]

    @property
    def frechet_name(self) -> str:
        """`FID` with Inception alone; `FD-…` with anything else, whose numbers mean something else."""
        return "FID" if self.name == INCEPTION else f"FD-{self.name}"

    def of(self, images: NDArray[np.uint8], *, finite: bool = True) -> NDArray[np.float32]:
        """float32 [N, dim]. Raises `ParameterError` for an extractor that gives another shape, NaN or ∞.

        finite: False lets NaN and ∞ pass, where an error would tell of a private image.
        """
        found = np.asarray(self.function(images), np.float32)
        if found.shape != (len(images), self.dim):
            raise ParameterError(
                f"features {self.name}: expected shape {(len(images), self.dim)}, got {found.shape}"
            )
        if finite and not np.isfinite(found).all():
            raise ParameterError(f"features {self.name}: a value is not finite")
        return found


def extractor_of(features: object) -> Features | None:
    """What `evaluate` was given, as an extractor. Raises as `features_named`, and for any other type."""
    if features is None or isinstance(features, Features):
        return features
    if isinstance(features, str):
        return features_named(features)
    raise ParameterError(
        f"expected features as a name, Features or None, got {features!r}",
        hint=f"known: {', '.join(sorted(EXTRACTORS))}",
    )


def features_named(name: str) -> Features:
    """The extractor called `name`; `inception-v3:FILE` takes its weights from FILE, a folder its own network.

    Raises `ParameterError` with the nearest known name, `ModelError` where package or weights are missing.
    """
    known, _, weights = name.partition(":")
    if (place := own_network(name)) is not None:
        return _own(place)
    if known not in EXTRACTORS or (weights and known != INCEPTION):
        raise unknown_name("features", name, EXTRACTORS)
    module, _, function = EXTRACTORS[known].partition(":")
    extractor: Callable[..., Features] = getattr(import_module(module), function)
    return extractor(Path(weights)) if weights else extractor()


def network_file(place: Path) -> Path:
    """The one file of a network that lies in a folder, or is that file."""
    return place / OWN_FILE if place.is_dir() else place


def own_network(name: str) -> Path | None:
    """Where the network lies that `name` is the path of: what a `pretrain` with a section `features` left.

    None for the name of an extractor, and for anything that is not there.
    """
    place = Path(name)
    return place if name not in EXTRACTORS and place.exists() else None


def _own(place: Path) -> Features:
    module = import_module("dp_diffusers.evaluation.feature_network")
    found: Features = module.extractor(place)
    return found
