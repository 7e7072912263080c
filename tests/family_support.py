"""An example of every family, and images and rows for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import tiny_pipelines
from dp_diffusers.diffusion.base import Base
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.loading import base_of_pipeline
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.sapf import Sapf, choose
from latent_support import tiny_latent_base

PROMPTS = ("a cat", "a dog", "two owls")
PIPELINES: dict[str, Callable[..., Any]] = {
    "dit": tiny_pipelines.dit,
    "stable_diffusion": tiny_pipelines.stable_diffusion,
    "stable_diffusion_xl": tiny_pipelines.stable_diffusion_xl,
    "stable_diffusion_3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
    "pixart": tiny_pipelines.pixart,
    "sana": tiny_pipelines.sana,
}
"""Families whose examples are stock pipelines, by the function that builds one."""

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "pixel": [
        {"patch": 2, "prediction": "v_prediction"},
        {"patch": 1, "prediction": "epsilon"},
        {"patch": 2, "classes": 0},
    ],
    "latent": [
        {"autoencoder": "kl"},
        {"autoencoder": "vq", "prediction": "epsilon"},
        {"autoencoder": "kl", "classes": 0},
    ],
    "dit": [{}],
    "stable_diffusion": [{"prediction": "epsilon"}, {"prediction": "v_prediction"}],
    "stable_diffusion_xl": [{"zeros": True}, {"zeros": False}],
    "stable_diffusion_3": [{}],
    "flux": [{"distilled": False}, {"distilled": True}],
    "pixart": [{"kind": "alpha"}, {"kind": "sigma"}],
    "sana": [{}],
}
CASES = [(name, options) for name, examples in EXAMPLES.items() for options in examples]


def pipeline_base(name: str, **options: Any) -> Base:
    """A tiny pipeline as a base."""
    return base_of_pipeline(PIPELINES[name](**options))


def example(tiny_base: Callable[..., Any], name: str, options: dict[str, Any]) -> Base:
    """A tiny model of the family `name`."""
    if name in PIPELINES:
        return pipeline_base(name, **options)
    found: Base = (tiny_latent_base if name == "latent" else tiny_base)(**options)
    return found


def stir(network: torch.nn.Module) -> None:
    """Adds random values to every tensor: no layer is silent because its weights are zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def opened(base: Base, **options: Any) -> Any:
    """The family of an example; a model that does not say its size is one for tiny images."""
    size = {} if base.pipeline != "FluxPipeline" else {"size": tiny_pipelines.SIZE}
    return family_of(base, **size, **options)


def prepared(base: Base, **options: Any) -> Any:
    """The family of an example with prompts, if it takes text, in training mode."""
    family = opened(base, **options)
    if family.takes_text:
        family.set_prompts(PROMPTS)
    family.network.train()
    return family


def images_for(family: Any, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[count, H, W, C]` images of three classes that differ in brightness, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 3
    shape = (count, family.size, family.size, family.channels)
    images = rng.integers(0, 60, shape) + 60 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def rows(
    family: Any, images: np.ndarray, labels: np.ndarray, units: list[int]
) -> tuple[torch.Tensor, torch.Tensor | None, Draws]:
    """Encoded images, labels and draws of one row for each unit."""
    numbers = torch.from_numpy(labels[units]) if family.classes else None
    return family.encode(images[units]), numbers, draws_of(family, np.array(units))


def draws_of(family: Any, owner: np.ndarray) -> Draws:
    """The secret draws of rows, `owner` `[R]` the unit of each, the rows of a unit neighbours."""
    units, first, position, counts = np.unique(
        owner, return_index=True, return_inverse=True, return_counts=True
    )
    drawn: Draws = family.objective.draw(
        RunKeys.for_tests(5),
        0,
        units=units,
        position=position,
        slot=np.arange(len(owner)) - first[position],
        slots=int(counts.max()),
        shape=family.shape,
    )
    return drawn


def some_draws(draws: Draws, index: torch.Tensor) -> Draws:
    """The draws of the rows `index`."""
    return Draws(**{name: getattr(draws, name)[index] for name in ("timesteps", "noise", "drop_label")})


def apply_strategy(spec: dict[str, Any], network: torch.nn.Module, *, seed: int = 0) -> Any:
    """Applies a strategy; one that needs layers to be chosen gets made-up numbers to choose them by."""
    strategy = strategy_of(spec)
    if not isinstance(strategy, Sapf):
        return strategy.apply(network, seed=seed)
    saliency = {name: float(place % 5) for place, name in enumerate(strategy.candidates(network))}
    return strategy.apply(network, seed=seed, chosen=choose(saliency, strategy.fraction))
