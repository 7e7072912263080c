"""Augmented copies of an image: a small public list of variants, and the pixels of each.

Guarantees: variant 0 is the image as it is; a variant is a function of one image alone, so that it can be
encoded once and kept. May import numpy only; which variant a row shows is drawn by `rows`. Source:
augmentation multiplicity, De et al. 2022 (arXiv 2204.13650): a unit's copies are averaged before its clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dp_diffusers.errors import unknown_name

KINDS: Final = ("flip", "shift")
PARTS_OF_A_SIDE: Final = 16  # an image is shifted by a sixteenth of its side


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A mirror image or not, then moved by whole pixels; what moves in repeats the nearest edge."""

    flip: bool = False
    down: int = 0
    right: int = 0

    def of(self, images: np.ndarray) -> np.ndarray:
        """uint8 `[N, H, W, C]` to the same shape."""
        height, width = images.shape[1:3]
        rows = np.clip(np.arange(height) - self.down, 0, height - 1)
        columns = np.clip(np.arange(width) - self.right, 0, width - 1)
        mirrored = images[:, :, ::-1] if self.flip else images
        moved: np.ndarray = mirrored[:, rows][:, :, columns]
        return moved


def variants(kinds: Sequence[str], size: int) -> tuple[Variant, ...]:
    """Every variant of images of `size` pixels a side, the image itself first.

    kinds: of `KINDS`; `flip` mirrors left and right, `shift` moves in eight directions. Raises
    `ParameterError` for another kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("augmentation", kind, KINDS)
    far = max(1, round(size / PARTS_OF_A_SIDE))
    moves = (0, far, -far) if "shift" in kinds else (0,)
    flips = (False, True) if "flip" in kinds else (False,)
    return tuple(
        Variant(flip=flip, down=down, right=right)
        for flip, down, right in itertools.product(flips, moves, moves)
    )


def augment(images: np.ndarray, variant: np.ndarray, table: Sequence[Variant]) -> np.ndarray:
    """uint8 `[R, H, W, C]`: image r as its variant `table[variant[r]]` shows it; variant: int64 `[R]`."""
    changed = np.flatnonzero(variant)
    if not len(changed):
        return images
    shown: np.ndarray = images.copy()
    for number in np.unique(variant[changed]):
        rows = np.flatnonzero(variant == number)
        shown[rows] = table[number].of(images[rows])
    return shown
