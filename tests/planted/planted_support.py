"""A training in milliseconds: the real loop, sampler, box and objective on a model of forty numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.training import Loop

CLASSES = 3


class ToyNetwork(nn.Module):
    """A linear denoiser of four pixels that knows its class; `extra` is a layer in front, if any."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.extra = extra or nn.Identity()
        self.linear, self.classes = nn.Linear(4, 4), nn.Embedding(CLASSES + 1, 4)

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(self.extra(pixels)) + self.classes(labels))


class Toy:
    """A model family of 2 x 2 images with three classes and a null class."""

    shape = (1, 2, 2)
    encodes_once = False

    def __init__(self, extra: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.network = ToyNetwork(extra)
        self.objective = Objective.of(DDPMScheduler(), label_dropout=0.3)

    def encode(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1

    def row_losses(self, clean: Tensor, labels: Tensor | None, draws: Draws) -> Tensor:
        assert labels is not None
        known = torch.where(draws.drop_label, torch.full_like(labels, CLASSES), labels)
        predicted = self.network(self.objective.noisy(clean, draws).flatten(1), known).view_as(clean)
        return self.objective.losses(predicted, clean, draws)


def toy_images(
    units: int, *, seed: int = 0, owner: Sequence[int] | np.ndarray | None = None
) -> PrivateImages:
    """Random images; one of each unit, or as many as `owner` says."""
    rng = np.random.default_rng(seed)
    owners = np.arange(units) if owner is None else np.asarray(owner)
    return PrivateImages(
        images=rng.integers(0, 255, (len(owners), 2, 2, 1), dtype=np.uint8),
        labels=rng.integers(0, CLASSES, len(owners)),
        class_names=("a", "b", "c"),
        owner=owners,
        unit_count=units,
        unit="image" if owner is None else "patient",
    )


def toy_loop(data: PrivateImages, *, extra: nn.Module | None = None, **changes: Any) -> Loop:
    """The real loop on the toy, without a plan unless one is given."""
    training = changes.pop("training", {"noise_draws": 1})
    runtime = changes.pop("runtime", {})
    facts: dict[str, Any] = {
        "family": Toy(extra),
        "data": data,
        "plan": None,
        "account": None,
        "keys": RunKeys.for_tests(0),
        "folder": RunFolder(Path("nowhere")),
        "progress": lambda **_: None,
    }
    return Loop(
        training=TrainingSettings(**training), runtime=RuntimeSettings(**runtime), **(facts | changes)
    )
