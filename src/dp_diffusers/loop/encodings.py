"""What the network sees of the private images, row by row.

Guarantees: a row's encoding is a function of that row's image and variant alone; where encoding costs much it
is done once, before the first step, into the run's safe. May import numpy and torch, and the data and the
family that they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.base import fingerprint
from dp_diffusers.diffusion.family import Family
from dp_diffusers.loop.augmentation import Variant, augment
from dp_diffusers.loop.encoded_cache import EncodedCache
from dp_diffusers.loop.rows import Rows


class Encodings(Protocol):
    """The encoded images of a run."""

    def prepare(self, progress: Callable[..., Any]) -> None:
        """Whatever there is to do before the first step; what `progress` is told depends on no image."""

    def take(self, rows: Rows) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU: what the network sees of each row."""


@dataclass(frozen=True, kw_only=True)
class EncodedEachTime:
    """For encodings that cost next to nothing."""

    family: Family
    data: PrivateImages
    variants: Sequence[Variant]

    def prepare(self, progress: Callable[..., Any]) -> None:
        """Nothing."""

    def take(self, rows: Rows) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU: what the network sees of each row."""
        return self.family.encode(augment(self.data.images[rows.image], rows.variant, self.variants))


@dataclass(frozen=True, kw_only=True)
class EncodedOnce:
    """For autoencoders: every variant of every image is encoded before the first step, and kept."""

    cache: EncodedCache

    def prepare(self, progress: Callable[..., Any]) -> None:
        """Encodes what no earlier process of this run has encoded."""
        self.cache.fill(lambda text: progress(message=text))

    def take(self, rows: Rows) -> torch.Tensor:
        """float32 `[R, c, h, w]` on the CPU: what the network sees of each row."""
        return self.cache.take(rows.image, rows.variant)


def encodings_of(family: Family, data: PrivateImages, variants: Sequence[Variant], folder: Path) -> Encodings:
    """The encodings of a run's images, each in every one of `variants`, of which the first is itself.

    folder: of the run's safe, for a family that encodes once.
    """
    if not family.encodes_once:
        return EncodedEachTime(family=family, data=data, variants=variants)
    base = family.base
    cache = EncodedCache(
        folder=folder,
        # the fingerprint of a base is from before an adapter was in it
        key=f"{base.sha256 or fingerprint(base)} {family.shape}",
        encode=family.encode,
        images=data.images,
        variants=variants,
    )
    return EncodedOnce(cache=cache)
