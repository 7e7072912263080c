"""Runs a network over images in blocks: what the extractors have in common.

Guarantees bounded memory, no gradient, and blocks that depend on the number of images alone. May import
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp_diffusers.errors import DataError

BLOCK: Final = 64


def in_blocks(
    network: Callable[[Tensor], Tensor], dim: int, block: int = BLOCK
) -> Callable[[NDArray[np.uint8]], NDArray[np.floating]]:
    """`network` (uint8 tensors [B, 3, H, W] to [B, dim]) as a function of arrays uint8 [N, H, W, C].

    block: images at once; a CPU is quickest where what they take fits its cache.
    """

    def function(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        found = np.empty((len(images), dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), block):
                where = slice(start, start + block)
                found[where] = network(as_rgb(images[where])).float().numpy()
        return found

    return function


def as_rgb(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, H, W, 1 or 3] to uint8 [N, 3, H, W]; grey becomes three equal channels."""
    if images.shape[3] not in (1, 3):
        raise DataError(f"expected images of 1 or 3 channels, got {images.shape[3]}")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return pixels.expand(-1, 3, -1, -1)
