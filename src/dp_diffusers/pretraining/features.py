"""A public feature network, trained to tell the classes of public images apart.

Guarantees that nothing private is read, and that a step is a function of (seed, step). May import torch.
Label smoothing after Szegedy et al. (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.diffusion.pixels import to_tensor
from dp_diffusers.errors import DataError
from dp_diffusers.evaluation.augmentation import distorted
from dp_diffusers.evaluation.feature_network import FeatureNetwork, Shape
from dp_diffusers.recipe import FeaturesSettings, PretrainTraining

STREAM: Final = 3  # keeps the draws of this stage apart from those of others
_SMOOTHING: Final = 0.05


def new_features(settings: FeaturesSettings, images: PublicImages, *, seed: int) -> FeatureNetwork:
    """A fresh network. Raises `DataError` for public images of a single class."""
    if len(images.class_names) < 2:
        raise DataError(
            "a feature network tells classes apart, and the public images are all of one",
            hint="give a source with labels: data: [{source: files, path: ..., label: label}]",
        )
    torch.manual_seed(seed)
    return FeatureNetwork(
        Shape(
            size=settings.size,
            channels=settings.channels,
            widths=tuple(settings.widths),
            blocks=settings.blocks,
            groups=settings.norm_groups,
            classes=len(images.class_names),
        )
    )


@dataclass(frozen=True, kw_only=True)
class FeaturesLoss:
    """The loss of a step: cross-entropy of bent public images."""

    network: FeatureNetwork
    images: PublicImages
    training: PretrainTraining

    def __call__(self, step: int) -> torch.Tensor:
        """The mean over a batch."""
        rng = np.random.default_rng([self.training.seed, step, STREAM])
        chosen = self.images.choose(rng, self.training.batch_size)
        pixels = self.images.images[chosen]
        bent = distorted(
            to_tensor(pixels, pixels.shape[1], pixels.shape[3]),
            torch.Generator().manual_seed(int(rng.integers(2**62))),
            flip=self.training.flip,
        )
        device = next(self.network.parameters()).device
        labels = torch.from_numpy(self.images.labels[chosen]).to(device)
        loss: torch.Tensor = functional.cross_entropy(
            self.network(bent.to(device)), labels, label_smoothing=_SMOOTHING
        )
        return loss
