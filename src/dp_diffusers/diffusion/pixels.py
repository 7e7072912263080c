"""Images as tensors: bytes to [-1, 1] and back.

Guarantee: what `to_tensor` gives, `to_images` returns byte for byte; the scale is public, never the data's
own. May import numpy and torch only.
"""

from __future__ import annotations

import numpy as np
import torch

from dp_diffusers.errors import DataError


def to_tensor(images: np.ndarray, size: int, channels: int) -> torch.Tensor:
    """uint8 `[N, H, W, C]` to float32 `[N, C, H, W]` in [-1, 1]; grey becomes colour where that is asked for.

    Raises `DataError` for another shape.
    """
    expected = (size, size, channels)
    if channels == 3 and images.shape[1:] == (size, size, 1):
        images = images.repeat(3, axis=3)
    if images.shape[1:] != expected:
        raise DataError(f"expected images of {expected} (height, width, channels), got {images.shape[1:]}")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1.0


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """float `[N, C, H, W]` to uint8 `[N, H, W, C]`, clipped to the range of pixels."""
    rounded = ((pixels.float().cpu().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().numpy()
