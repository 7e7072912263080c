"""From scores to guesses: who is in, by the scores that say most.

Guarantees that the number of guesses is fixed before any score is seen, as the bounds ask. May import numpy
and torch. Source of the loss attack: Yeom et al. 2018 (arXiv 1709.01604), against the untrained model as a
reference.
"""

from __future__ import annotations

import numpy as np
import torch

from dp_diffusers.auditing.bounds import Outcome
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws


def guesses_of(count: int, share: float) -> int:
    """How many of `count` canaries are guessed: `share` of them, at least one."""
    return max(1, round(share * count))


def guessed(scores: np.ndarray, included: np.ndarray, guesses: int) -> Outcome:
    """The canaries with the largest |score| are guessed: in above zero, out below. `scores`, `included [N]`.

    A NaN is the last to be guessed.
    """
    strength = np.nan_to_num(np.abs(scores), nan=-1.0)
    chosen = np.argsort(-strength, kind="stable")[:guesses]
    correct = int(((scores[chosen] > 0) == included[chosen]).sum())
    return Outcome(canaries=len(scores), guesses=guesses, correct=correct)


def centred(scores: np.ndarray) -> np.ndarray:
    """Scores about their median: half of the canaries are out, whoever they are."""
    return scores - np.median(scores)


def mean_losses(
    family: Family, images: np.ndarray, labels: np.ndarray | None, *, draws: int, batch: int = 256
) -> np.ndarray:
    """float64 `[N]`: each image's mean loss over `draws` public draws, the same for every image and model."""
    network = family.network
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, *family.shape, generator=generator)
    levels = torch.linspace(0, len(family.objective.alphas_cumprod) - 1, draws + 2)[1:-1].long()
    image = np.repeat(np.arange(len(images)), draws)
    draw = np.tile(np.arange(draws), len(images))
    losses = []
    with torch.no_grad():
        for start in range(0, len(image), batch):
            rows, which = image[start : start + batch], draw[start : start + batch]
            chosen = Draws(
                timesteps=levels[which],
                noise=noise[which],
                drop_label=torch.zeros(len(which), dtype=torch.bool),
            ).to(device)
            clean = family.encode(images[rows]).to(device)
            named = None if labels is None else torch.from_numpy(labels[rows]).to(device)
            losses.append(family.row_losses(clean, named, chosen).double().cpu().numpy())
    means: np.ndarray = np.concatenate(losses).reshape(len(images), draws).mean(1)
    return means
