"""What the network sees of the private images, row by row.

Guarantee: a row's encoding is a function of that row's image alone. May import numpy and torch, and the data
and the family that they meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

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

    def take(self, rows: Rows) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU: what the network sees of each row."""
        return self.family.encode(self.data.images[rows.image])


def encodings_of(family: Family, data: PrivateImages) -> Encodings:
    """The encodings of a run's images."""
    return EncodedEachTime(family=family, data=data)
