"""Images for an audit: public ones to train beside the canaries, and image canaries, both without a source.

Guarantees that nothing private can be in them: they are drawn from a random generator, or read from files
that the recipe declares public. May import numpy and the public sources; never torch.
"""

from __future__ import annotations

import numpy as np

from dp_diffusers.data.public_images import load_public

WAVES = 6  # per procedural image
COARSEST = 4.0  # waves over an image at most: photographs are smooth too


def public_images(
    path: str | None, count: int, size: int, channels: int, random: np.random.Generator
) -> np.ndarray:
    """uint8 `[N, size, size, channels]`: at most `count` of the images at `path`, or `count` procedural ones.

    Raises `DataError` for a path that cannot be read.
    """
    if path is None:
        return procedural_images(count, size, channels, random)
    images = load_public([{"source": "files", "path": path, "label": None}], size, channels, 0).images
    chosen = random.permutation(len(images))[:count]
    return np.ascontiguousarray(images[chosen])


def procedural_images(count: int, size: int, channels: int, random: np.random.Generator) -> np.ndarray:
    """uint8 `[count, size, size, channels]`: smooth patterns, sums of a few random waves."""
    grid = np.arange(size) / size
    down, right = np.meshgrid(grid, grid, indexing="ij")
    shape = (count, channels, WAVES, 1, 1)
    turns = random.uniform(-COARSEST, COARSEST, (2, *shape))
    phase = random.random(shape)
    waves = np.cos(2 * np.pi * (turns[0] * down + turns[1] * right + phase)).sum(2)
    scaled = 127.5 * (1.0 + waves / WAVES**0.5 / 2)
    return np.ascontiguousarray(scaled.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def canary_images(count: int, size: int, channels: int, random: np.random.Generator) -> np.ndarray:
    """uint8 `[count, size, size, channels]`: each pixel black or white; no model expects them."""
    return (random.integers(0, 2, (count, size, size, channels)) * 255).astype(np.uint8)
