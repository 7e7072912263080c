"""Which images are asked for: how many, of which classes, drawn how.

Guarantees that equal requests are equal documents, so that the same call again goes on or is done, and that
labels follow from the request and the released classes alone. May import diffusion/.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.diffusion.generation import balanced_labels, proportional_labels
from dp_diffusers.errors import ParameterError
from dp_diffusers.recipe import GenerationSettings


def request_of(
    images: int | None,
    per_label: int | None,
    settings: GenerationSettings,
    classes: ReleasedClasses | None,
    *,
    relabels: bool = False,
    candidates: int = 1,
) -> dict[str, Any]:
    """What decides the images of a run, beside its adapter. relabels: whether a teacher gives the labels.

    candidates: images drawn for each that is kept.
    """
    count = _count(images, per_label, settings.images, 0 if classes is None else len(classes.labels))
    fields = settings.model_dump(mode="json", include={"sampler", "steps", "guidance", "seed"})
    if settings.dtype != "float32":  # the other bits of an image; requests from before have no such field
        fields["dtype"] = settings.dtype
    if relabels:
        fields["teacher"] = "relabel"
    if candidates > 1:
        fields["candidates"] = candidates
    if settings.labels == "histogram" and per_label is None:
        fields["labels"] = "histogram"
        _require_histogram(classes)
    return {"count": count, **fields, "classes": None if classes is None else classes.to_dict()}


def _require_histogram(classes: ReleasedClasses | None) -> None:
    """Raises `ParameterError` unless the run released how many units there are of each class."""
    if classes is None or classes.proportions is None:
        raise ParameterError(
            "this run has released no class histogram",
            hint="set generation.labels to uniform; a run asks for the histogram before it trains",
        )


def labels_of(count: int, classes: ReleasedClasses | None, request: dict[str, Any]) -> np.ndarray | None:
    """int64 `[count]`: the place of each image's class among `classes`."""
    if classes is None:
        return None
    if request.get("labels") == "histogram" and classes.proportions is not None:
        return proportional_labels(count, classes.proportions)
    return balanced_labels(count, len(classes.labels))


def _count(images: int | None, per_label: int | None, default: int, classes: int) -> int:
    if images is not None and per_label is not None:
        raise ParameterError("give images or per_label, not both")
    if per_label is not None:
        images = per_label * max(classes, 1)
    count = default if images is None else images
    if count < 1:
        raise ParameterError(f"expected at least one image, got {count}")
    return int(count)  # of numpy, too: it becomes part of a document
