"""Random shifts, turns and bends of image batches, for training classifiers.

Guarantees that every random number comes from the generator passed in. May import torch. Affine and elastic
distortions after Simard, Steinkraus & Platt (2003).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def distorted(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """float32 [N, C, H, W] under a random affine map and a slow elastic one per image, edges repeated."""
    count = len(images)
    grid = functional.affine_grid(_affine(count, generator, flip), list(images.shape), align_corners=False)
    coarse = 0.05 * torch.randn((count, 2, 4, 4), generator=generator)
    bend = functional.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=True)
    places = grid + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(images, places, padding_mode="border", align_corners=False)


def _affine(count: int, generator: torch.Generator, flip: bool) -> Tensor:
    """[N, 2, 3]: turns within 10 degrees, scales within 12 %, slants within 0.15, shifts within 8 %."""
    uniform = 2 * torch.rand((count, 6), generator=generator) - 1
    angle, slant = 0.175 * uniform[:, 0], 0.15 * uniform[:, 1]
    wide, tall = 1 + 0.12 * uniform[:, 2], 1 + 0.12 * uniform[:, 3]
    if flip:
        wide = wide * (1 - 2 * (torch.rand(count, generator=generator) < 0.5).float())
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([wide * cos, slant * cos - tall * sin, 0.16 * uniform[:, 4]], 1)
    second = torch.stack([wide * sin, slant * sin + tall * cos, 0.16 * uniform[:, 5]], 1)
    return torch.stack([first, second], 1)
