"""The loop's own rows, draws and losses on a real `UNet2DModel`, with next to no noise: what it adds up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.strategies import strategy_of
from dp_diffusers.training import Loop
from engine_support import make_box, release

CLIP = 1e-3  # far below the norm of any unit's gradient: every unit is clipped
LAYERS: dict[str, type[nn.Module]] = {
    "convolution": nn.Conv2d,
    "norm": nn.GroupNorm,
    "embedding": nn.Embedding,
}


def train_layers(network: nn.Module, kind: str) -> None:
    """Makes the parameters of all layers of one kind the trainable ones."""
    network.requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, LAYERS[kind]):
            layer.requires_grad_(True)


def disturb(network: nn.Module) -> None:
    """Moves every trainable parameter, so that no gradient is zero because an adapter has just begun."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def new_loop(
    base: Any,
    trained: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    draws: int = 1,
    owner: Any = None,
    most: int = 8,
) -> Loop:
    """A loop without a plan. `trained`: a strategy, or a kind of `LAYERS`; `owner`: unit of each image;
    `most`: images of one unit used in a step."""
    family = family_of(base, label_dropout=0.1)
    if isinstance(trained, str):
        train_layers(family.network, trained)
    else:
        strategy_of(trained).apply(family.network)
    disturb(family.network)
    owner = np.arange(len(images)) if owner is None else owner
    return Loop(
        family=family,
        data=PrivateImages(
            images=images,
            labels=labels,
            class_names=("a", "b", "c"),
            owner=owner,
            unit_count=int(owner.max()) + 1,
            unit="image" if len(np.unique(owner)) == len(images) else "patient",
        ),
        plan=None,
        account=None,
        keys=RunKeys.for_tests(0),
        training=TrainingSettings(noise_draws=draws, max_images_per_unit=most),
        runtime=RuntimeSettings(),
        folder=RunFolder(Path("nowhere")),
        progress=lambda **_: None,
    )


def clipped_sum(loop: Loop, units: Sequence[int], step: int = 0, clipping: str = "flat") -> torch.Tensor:
    """float64 vector: the clipped sum of these units, through the loop's own rows, draws and losses."""
    box = make_box(loop.family.network, clip_norm=CLIP, keys=RunKeys.for_tests(0), clipping=clipping)
    try:
        for rows in loop.passes(step, np.asarray(units, dtype=np.int64)):
            owner, weight = torch.from_numpy(rows.owner), torch.from_numpy(rows.weight)
            box.accumulate(loop.row_losses(rows, step), owner, weight)
        return release(box, step)
    finally:
        box._source.close()  # type: ignore[attr-defined]


def contribution(loop: Loop, unit: int) -> float:
    """Norm of what one unit alone adds, in units of the clip norm."""
    return float(clipped_sum(loop, [unit]).norm()) / CLIP


def moved(loop: Loop, units: Sequence[int], leaves: int) -> float:
    """How far the sum moves when one unit leaves, in units of the clip norm."""
    without = [unit for unit in units if unit != leaves]
    return float((clipped_sum(loop, units) - clipped_sum(loop, without)).norm()) / CLIP


def bounded(distance: float) -> bool:
    """The property: one unit is worth at most the clip norm."""
    return distance <= 1 + 1e-5
