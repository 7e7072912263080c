"""What the network sees of the private images, row by row.

Guarantee: a row's encoding is a function of that row's image and variant alone. May import numpy and torch,
and the data and the family that they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from dp_diffusers.augmentation import Variant, augment
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.rows import Rows


class Encodings(Protocol):
    """The encoded images of a run."""

    def take(self, rows: Rows) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU: what the network sees of each row."""


@dataclass(frozen=True, kw_only=True)
class EncodedEachTime:
    """For encodings that cost next to nothing."""

    family: Family
    data: PrivateImages
    variants: Sequence[Variant]

    def take(self, rows: Rows) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU: what the network sees of each row."""
        return self.family.encode(augment(self.data.images[rows.image], rows.variant, self.variants))


def encodings_of(family: Family, data: PrivateImages, variants: Sequence[Variant]) -> Encodings:
    """The encodings of a run's images, each in every one of `variants`, of which the first is itself."""
    return EncodedEachTime(family=family, data=data, variants=variants)
