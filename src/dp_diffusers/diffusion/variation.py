"""Variations of images: some noise on them, and the model takes it off again.

Guarantees: a variation is a function of (model, image, label, level, its stream's name) up to the last bits
of the arithmetic; the label stays; values that are not finite become no image. May import torch and
diffusers, never the engine: what is varied is released already. Source: SDEdit, Meng et al. 2022 (arXiv
2108.01073).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import Sampling, finite
from dp_diffusers.diffusion.generation import _model_input as model_input
from dp_diffusers.diffusion.generation import _scheduler as scheduler_of
from dp_diffusers.diffusion.schedules import is_flow


def varied(
    family: Family,
    images: np.ndarray,
    labels: np.ndarray | None,
    sampling: Sampling,
    *,
    level: float,
    streams: Sequence[str],
) -> Iterator[np.ndarray]:
    """Yields uint8 `[n, H, W, C]` batches of one variation for each of `images` (uint8 `[N, H, W, C]`).

    labels: int64 `[N]`, in the numbering of the family. level: in (0, 1], the part of the sampler's steps
    that is done again; 1 leaves next to nothing of an image. streams: the name of each image's noise.
    Raises `ModelError` where what is drawn is not finite.
    """
    network = family.network
    training = network.training
    network.eval()
    try:
        batch = min(sampling.batch, family.images_at_once)
        for first in range(0, len(images), batch):
            part = slice(first, first + batch)
            chosen = None if labels is None else torch.from_numpy(labels[part])
            noise = _noise(family, streams[part])
            drawn = _again(family, family.encode(images[part]), chosen, noise, sampling, level)
            yield family.decode(finite(drawn, sampling))
    finally:
        network.train(training)


@torch.no_grad()
def _again(
    family: Family,
    clean: torch.Tensor,
    labels: torch.Tensor | None,
    noise: torch.Tensor,
    sampling: Sampling,
    level: float,
) -> torch.Tensor:
    device = next(family.network.parameters()).device
    labels = None if labels is None else labels.to(device)
    scheduler = scheduler_of(family, sampling)
    first = first_step(len(scheduler.timesteps), level)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    signal, spread = _scales(family, scheduler, first)
    images = signal * clean.to(device) + spread * noise.to(device)
    for timestep in scheduler.timesteps[first:]:
        seen, times = model_input(scheduler, images, timestep), timestep.to(device).expand(len(images))
        output = family.guided(seen, times, labels, sampling.guidance)
        images = scheduler.step(output.to(images.dtype), timestep, images).prev_sample
    return images


def first_step(steps: int, level: float) -> int:
    """Which of the sampler's steps comes first at a level; the last one is always done."""
    return steps - min(steps, max(1, math.ceil(level * steps - 1e-9)))


def _scales(family: Family, scheduler: Any, first: int) -> tuple[float, float]:
    """Scales of image and noise where the sampler begins."""
    if is_flow(family.base.scheduler):
        sigma = float(scheduler.sigmas[first])
        return 1.0 - sigma, sigma
    timestep = int(scheduler.timesteps[first])
    return float(family.objective.signal[timestep]), float(family.objective.noise[timestep])


def _noise(family: Family, streams: Sequence[str]) -> torch.Tensor:
    """On the CPU, whatever the network's device: a name means the same noise everywhere."""
    return torch.stack([torch.randn(family.shape, generator=_generator(name)) for name in streams])


def _generator(name: str) -> torch.Generator:
    digest = hashlib.sha256(f"variation/{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "little"))
