"""The Inception-v3 of published FIDs, through torch-fidelity (extra `fid`), where its weights are on disk.

Guarantees that nothing is downloaded and that the weights are TensorFlow's of 2015-12-05, as torch-fidelity
converted them. May import torch and torch-fidelity. Heusel et al. (2017); Obukhov et al. (2020).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from dp_diffusers.errors import ModelError
from dp_diffusers.evaluation.features import INCEPTION, Features
from dp_diffusers.evaluation.network_features import in_blocks
from dp_diffusers.evaluation.weights import read_weights

FILE: Final = "weights-inception-2015-12-05-6726825d.pth"
SHA256_START: Final = "6726825d"  # the part that the file's name carries
DIM: Final = 2048


def extractor(weights: Path | None = None) -> Features:
    """The 2048 pooled features. `weights` None takes torch-fidelity's file in torch's cache."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / FILE if weights is None else weights
    if not place.exists():
        raise ModelError(
            f"features {INCEPTION}: no weights at {place}",
            hint=f"fetch torch-fidelity's {FILE} and name it: --features {INCEPTION}:{FILE}",
        )
    # torch-fidelity unpickles without restriction: what read_weights let pass is safe to open that way
    _, digest = read_weights(place, SHA256_START, f"features {INCEPTION}")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ModelError(
            f"features {INCEPTION} need a package that is not there: {error.name}",
            hint="pip install 'dp-diffusers[fid]'",
        ) from error
    model = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(place))

    def network(images: Tensor) -> Tensor:
        (pooled,) = model(images.contiguous())
        features: Tensor = pooled
        return features

    return Features(name=INCEPTION, dim=DIM, sha256=digest, function=in_blocks(network, DIM))
