"""Images of a recipe's base as it is: the ε = 0 row of a study.

Guarantees the labels, sampler, steps, guidance and seed that a run of the same recipe has. May import torch
and diffusers. Nothing private is opened.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dp_diffusers.conditions import classes_of, set_conditions
from dp_diffusers.devices import device_of
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.generation import sample
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.errors import ParameterError
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.evolution_population import sampling_of
from dp_diffusers.images_out import write_images
from dp_diffusers.recipe import Recipe
from dp_diffusers.released_classes import declared_size
from dp_diffusers.requested_images import labels_of


def public_images(recipe: Recipe, folder: Path) -> LabelledImages:
    """The images, made once and kept in `folder`. Raises `ParameterError` for a base without classes."""
    if not folder.exists():
        settings = recipe.model_dump(mode="json")
        base = load_base(recipe.base).with_classes(recipe.data.classes)
        family = family_of(base, size=declared_size(settings))
        classes = classes_of(family, settings)
        if classes is None:
            raise ParameterError(
                "images without classes cannot be scored by a classifier",
                hint="a base with classes, or data.caption with {label}",
            )
        family.network.to(device_of(recipe.runtime.device))
        set_conditions(family, settings)
        count = recipe.generation.images
        places = labels_of(count, classes, {})
        assert places is not None
        numbers = np.array(classes.labels, np.int64)[places]
        pixels = np.concatenate(list(sample(family, numbers, count, sampling_of(recipe.generation))))
        write_images(pixels, places, classes.names, folder, format="parquet")
    return read_images(folder)
