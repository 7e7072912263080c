"""One request for images: which they are, of which classes, and the model that draws any part of them.

Guarantees that image i is a function of (release, request, i) up to the last bits of the arithmetic,
whichever process draws it and beside whichever others. May import torch and diffusers.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import Sampling, images_of_a_part, require_sampler, sample
from dp_diffusers.drawing.drawing_model import drawing_model
from dp_diffusers.drawing.image_parts import Parts, drawn_for
from dp_diffusers.drawing.requested_images import labels_of, request_of
from dp_diffusers.errors import ParameterError
from dp_diffusers.evolution.population import more_images, sampling_of
from dp_diffusers.recipe import GenerationSettings
from dp_diffusers.release import Release
from dp_diffusers.runtime.compiled_parts import compiling
from dp_diffusers.teaching.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """What is to be drawn, and the model that draws it, which is loaded when it is asked for."""

    release: Release
    settings: GenerationSettings
    images: int | None
    per_label: int | None
    device: str
    compiled: bool

    @cached_property
    def family(self) -> Family:
        """The trained model. Raises `ParameterError` for prompts that have no effect."""
        if self.release.population is not None and self.settings.prompts:
            raise ParameterError(
                "generation.prompts has no effect on a population, whose images have their texts",
                hint="leave it out",
            )
        return self.release.family(device=self.device)

    @cached_property
    def classes(self) -> ReleasedClasses | None:
        """What the images are of; tells the family its texts."""
        return self.release.classes(self.family, self.settings.prompts)

    @cached_property
    def request(self) -> dict[str, Any]:
        """What decides the images, beside the release."""
        return request_of(
            self.images,
            self.per_label,
            self.settings,
            self.classes,
            relabels=self.teacher is not None,
            candidates=self.candidates,
        )

    @property
    def candidates(self) -> int:
        """Images drawn for each that is kept; 1 where nobody asks the teacher.

        Raises `ParameterError` for more than 1 of a run without clusters.
        """
        if self.settings.candidates == 1 or self.settings.teacher == "off" or self.settings.prompts:
            return 1
        if self.teacher is None or not self.teacher.has_clusters:
            raise ParameterError(
                "generation.candidates needs a teacher with clusters, and this run has none",
                hint="set it to 1, or use --teacher off; a training asks for clusters by teacher.clusters",
            )
        return self.settings.candidates

    @cached_property
    def teacher(self) -> Teacher | None:
        """Whose answers are the labels; None where the labels are the classes that were asked for."""
        if self.settings.teacher == "off" or self.settings.prompts:
            return None
        return self.release.teacher

    @cached_property
    def labels(self) -> np.ndarray | None:
        """int64 `[drawn]`: the class that each image is asked to be, as its place among the classes."""
        return labels_of(drawn_for(self.request), self.classes, self.request)

    @cached_property
    def sampling(self) -> Sampling:
        """How they are drawn: a part at once, filled up where a compiled network knows one shape."""
        found = sampling_of(self.settings)
        batch = min(images_of_a_part(self.family, found), drawn_for(self.request))
        return Sampling(**{**vars(found), "batch": batch, "whole_batches": self.compiled})

    def parts(self) -> Parts:
        """Those of this job that were made before."""
        _ = self.classes
        return Parts(self.release.folder, self.request, size=self.sampling.batch, weights=self.weights)

    @property
    def weights(self) -> dict[str, str]:
        """Tensors of the release and their certified hashes: what images are drawn and labelled by."""
        files = self.release.certificate.files
        return {name: sha for name, sha in files.items() if name.endswith(".safetensors")}

    @cached_property
    def _drawing(self) -> Family:
        require_sampler(self.family, self.sampling)
        return drawing_model(self.family, dtype=self.settings.dtype, compiled=self.compiled)

    def draw(self, images: range) -> np.ndarray:
        """uint8 `[n, H, W, C]`: the images of these numbers.

        Raises `ParameterError` where the network is to be compiled, and cannot be; `ModelError` where the
        sampler cannot draw from the model, or draws what is not finite.
        """
        labels = None if self.labels is None else self.labels[: images.stop]
        assert labels is None or self.classes is not None
        numbers = (
            None
            if labels is None or self.classes is None
            else np.array(self.classes.labels, np.int64)[labels]
        )
        if self.release.population is None:
            made = sample(self._drawing, numbers, images.stop, self.sampling, start=images.start)
        else:
            population, level = self.release.population
            made = more_images(
                self._drawing,
                population,
                numbers,
                labels,
                images.stop,
                self.sampling,
                level=level,
                start=images.start,
            )
        with compiling() if self.compiled else nullcontext():
            return np.concatenate(list(made))
