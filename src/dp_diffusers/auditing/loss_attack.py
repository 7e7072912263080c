"""The attack from outside: how far the loss of an image fell, for images that were in and that were out.

Guarantees the same public draws for every image and both models. May import numpy and torch. Source: Yeom et
al. 2018 (arXiv 1709.01604), with the untrained model as the reference.
"""

from __future__ import annotations

import numpy as np
import torch

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws


def mean_losses(
    family: Family, images: np.ndarray, labels: np.ndarray | None, *, draws: int, batch: int = 256
) -> np.ndarray:
    """float64 `[N]`: each image's mean loss over `draws` noise draws at evenly spread noise levels."""
    public = _draws(family, draws)
    image, draw = np.repeat(np.arange(len(images)), draws), np.tile(np.arange(draws), len(images))
    losses = []
    for start in range(0, len(image), batch):
        rows, which = image[start : start + batch], torch.from_numpy(draw[start : start + batch])
        losses.append(_losses(family, images[rows], None if labels is None else labels[rows], public, which))
    means: np.ndarray = np.concatenate(losses).reshape(len(images), draws).mean(1)
    return means


def _draws(family: Family, count: int) -> Draws:
    generator = torch.Generator().manual_seed(0)
    levels = torch.linspace(0, family.objective.level_count - 1, count + 2)[1:-1].long()
    noise = torch.randn(count, *family.shape, generator=generator)
    return Draws(timesteps=levels, noise=noise, drop_label=torch.zeros(count, dtype=torch.bool))


def _losses(
    family: Family, images: np.ndarray, labels: np.ndarray | None, public: Draws, which: torch.Tensor
) -> np.ndarray:
    """float64 `[R]`: the loss of each image at the draw `which [R]`."""
    device = next(family.network.parameters()).device
    draws = Draws(
        timesteps=public.timesteps[which], noise=public.noise[which], drop_label=public.drop_label[which]
    ).to(device)
    clean = family.encode(images).to(device)
    named = None if labels is None else torch.from_numpy(labels).to(device)
    with torch.no_grad():
        return family.row_losses(clean, named, draws).double().cpu().numpy()
