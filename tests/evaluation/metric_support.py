"""A small extractor without weights, and sets of vectors as an extractor would have made them."""

from __future__ import annotations

import numpy as np

from dp_diffusers.evaluation.embedding import Embedded
from dp_diffusers.evaluation.features import Features


def quarters(images: np.ndarray) -> np.ndarray:
    """float32 [N, 16]: means of a 4 x 4 grid of blocks."""
    grey = images.astype(np.float32).mean(3) / 255
    count, height, width = grey.shape
    return grey.reshape(count, 4, height // 4, 4, width // 4).mean((2, 4)).reshape(count, 16)


PIXELS = Features(name="pixels-4", dim=16, function=quarters)


def of_vectors(vectors: np.ndarray, features: Features = PIXELS) -> Embedded:
    """A set with these vectors [N, D]; its covariance is numpy's."""
    rows = vectors.astype(np.float64)
    return Embedded(
        features=features,
        count=len(rows),
        mean=rows.mean(0),
        covariance=np.cov(rows, rowvar=False),
        vectors=vectors.astype(np.float32),
    )


def normal(count: int, dim: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """float32 [count, dim]; single precision first, so that an oracle sees the very same numbers."""
    drawn = np.random.default_rng(seed).normal(shift, scale, (count, dim))
    return drawn.astype(np.float32)
