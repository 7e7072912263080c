"""A population of synthetic images: the next one from votes, and more images from the last one.

Guarantees that all of it is post-processing of released votes, and that each class keeps its exact number.
May import numpy, torch and diffusion/. Source: Lin et al. 2024; systematic resampling as in particle filters
(Kitagawa 1996), whose draws have the smallest spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import Sampling
from dp_diffusers.diffusion.variation import varied
from dp_diffusers.recipe.sections import GenerationSettings
from dp_diffusers.tensor_file import damaged, read_tensors, write_tensors

FOLDER: Final = "population"  # in a release, in the place of an adapter
FILE: Final = "population.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """images: uint8 `[S, H, W, C]`; classes: int64 `[S]`, places among the released classes, or None."""

    images: np.ndarray
    classes: np.ndarray | None

    def save(self, release: Path, *, level: float) -> None:
        """Writes `population/population.safetensors`; level: of further variations."""
        folder = release / FOLDER
        folder.mkdir(exist_ok=True)
        tensors = {"images": self.images, "level": np.array([level])}
        tensors |= {} if self.classes is None else {"classes": self.classes}
        write_tensors(folder / FILE, tensors)


def saved_population(release: Path) -> tuple[Population, float] | None:
    """The population of a release and the level of further variations; None for one with an adapter.

    Raises `RunFolderError` for a file that cannot be read.
    """
    path = release / FOLDER / FILE
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    try:
        population = Population(images=tensors["images"], classes=tensors.get("classes"))
        return population, float(tensors["level"][0])
    except (KeyError, IndexError) as error:
        raise damaged(path) from error


def sampling_of(settings: GenerationSettings) -> Sampling:
    """How images are drawn."""
    return Sampling(
        sampler=settings.sampler, steps=settings.steps, guidance=settings.guidance, seed=settings.seed
    )


def parents(
    released: np.ndarray, classes: np.ndarray | None, *, threshold: float, seed: int, step: int
) -> np.ndarray:
    """int64 `[S]`: for each place of the next population the place of the image that it is made from.

    released: float64 `[S]`, votes with their noise. A place keeps its class; within a class, images are
    drawn in proportion to their votes above the threshold, all alike where none has any.
    """
    strength = np.maximum(released - threshold, 0.0)
    kinds = np.zeros(len(released), np.int64) if classes is None else classes
    chosen = np.empty(len(released), np.int64)
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        start = np.random.default_rng([seed, step, int(kind)]).random()
        chosen[members] = members[_systematic(strength[members], start)]
    return chosen


def _systematic(strength: np.ndarray, start: float) -> np.ndarray:
    """As many draws as there are numbers, at even distances along their sum; start: in [0, 1)."""
    total = float(strength.sum())
    weights = strength if total > 0 and math.isfinite(total) else np.ones(len(strength))
    edges = np.cumsum(weights)
    marks = (start + np.arange(len(weights))) / len(weights) * edges[-1]
    drawn: np.ndarray = np.minimum(np.searchsorted(edges, marks, side="right"), len(weights) - 1)
    return drawn


def more_images(
    family: Family,
    population: Population,
    numbers: np.ndarray | None,
    classes: np.ndarray | None,
    count: int,
    sampling: Sampling,
    *,
    level: float,
    start: int = 0,
) -> Iterator[np.ndarray]:
    """Yields uint8 `[n, H, W, C]` batches of images `start` to `count - 1` of a release.

    The images of the population come first, each once, then variations of them in turn; with classes, the
    same within each class. numbers, classes: int64 `[count]`, the class of each image in the numbering of
    the family and among the released ones.
    """
    parent, turn = _turns(population, classes, count)
    for first in range(start, count, sampling.batch):
        part = np.arange(first, min(first + sampling.batch, count))
        batch = population.images[parent[part]].copy()
        again = part[turn[part] > 0]
        if len(again):
            kept = None if numbers is None else numbers[again]
            streams = [f"more/{sampling.seed}/{index}" for index in again]
            originals = population.images[parent[again]]
            new = varied(family, originals, kept, sampling, level=level, streams=streams)
            batch[again - first] = np.concatenate(list(new))
        yield batch


def _turns(population: Population, classes: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 `[count]` twice: the parent of each image, and how often it was taken before."""
    own = np.zeros(len(population.images), np.int64) if population.classes is None else population.classes
    wanted = np.zeros(count, np.int64) if classes is None or population.classes is None else classes
    parent, turn = np.empty(count, np.int64), np.empty(count, np.int64)
    for kind in np.unique(wanted):
        places, members = np.flatnonzero(wanted == kind), np.flatnonzero(own == kind)
        rank = np.arange(len(places))
        parent[places], turn[places] = members[rank % len(members)], rank // len(members)
    return parent, turn
