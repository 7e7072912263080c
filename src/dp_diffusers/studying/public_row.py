"""Images of a recipe's base as it is: the ε = 0 row of a study.

Guarantees the labels, sampler, steps, guidance and seed that a run of the same recipe has. May import torch
and diffusers. Nothing private is opened.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from dp_diffusers.classes.conditions import classes_of, set_conditions
from dp_diffusers.classes.released_classes import declared_size, names_for_base
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.generation import require_sampler, sample
from dp_diffusers.diffusion.loading import load_base
from dp_diffusers.drawing.images_out import write_images
from dp_diffusers.drawing.requested_images import labels_of
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.evaluation.reading import LabelledImages, read_images
from dp_diffusers.evolution.population import sampling_of
from dp_diffusers.recipe import Recipe
from dp_diffusers.runtime.devices import device_of

MADE_OF: Final = "base.sha256"  # a file beside the images, in their folder


def public_images(recipe: Recipe, folder: Path) -> tuple[LabelledImages, str]:
    """The images, made once and kept in `folder`, and the sha256 of their base.

    Raises `ParameterError` for a base without classes, `ModelError` where the sampler cannot draw from it,
    `RunFolderError` where those that are kept were made from a base that has changed since.
    """
    settings = recipe.model_dump(mode="json")
    base = load_base(recipe.base).with_classes(names_for_base(settings))
    assert base.sha256 is not None
    if not folder.exists():
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
        sampling = sampling_of(recipe.generation)
        require_sampler(family, sampling)
        pixels = np.concatenate(list(sample(family, numbers, count, sampling)))
        note = partial(_note, sha256=base.sha256)
        write_images(pixels, places, classes.names, folder, format="parquet", check=note)
    elif (folder / MADE_OF).exists() and (folder / MADE_OF).read_text().strip() != base.sha256:
        raise RunFolderError(
            f"base {recipe.base} has changed since the images in {folder} were made",
            hint="restore it, give another --out, or delete that folder",
        )
    return read_images(folder), base.sha256


def _note(built: Path, sha256: str) -> None:
    """Writes what the images were made from, before their folder has its name."""
    (built / MADE_OF).write_text(sha256 + "\n")
