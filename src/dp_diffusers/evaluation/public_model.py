"""The ε = 0 rows of a release: images of its base model without the adapter, and the base's public data.

Guarantees the classes that the release's images were asked to be of, also where a teacher has labelled them
since, and the same sampler, steps, guidance and seed, whatever `generate` was told; the result is kept in
`RUN/private/`. May import what `release` imports, when called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.classes.base_classes import declared_entries
from dp_diffusers.drawing.kept_images import KeptImages
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.whole_files import replacing

if TYPE_CHECKING:
    from dp_diffusers.release import Release

DRAWN = ("sampler", "steps", "guidance", "seed")


def run_of(images: Path) -> Path | None:
    """The run folder that the images at RUN/release/images were made by, or None elsewhere."""
    release = images.resolve().parent
    return release.parent if (release / "certificate.json").exists() else None


def public_model_images(run: Path, like: LabelledImages) -> LabelledImages:
    """As many images as `like` has, from the run's base model without its adapter, of the same labels.

    Labels that a charged teacher gave are not public: then those that were asked for stand in their place.
    Raises `ModelError` when the base is not the one of the certificate.
    """
    from dp_diffusers.diffusion.generation import Sampling, sample
    from dp_diffusers.drawing.requested_images import labels_of
    from dp_diffusers.recipe.sections import GenerationSettings
    from dp_diffusers.release import Release

    release = Release.open(run)
    made_with = KeptImages(RunFolder(run)).request() or {}
    recipe = release.settings().get("generation") or {}
    settings = GenerationSettings(
        **{**recipe, **{name: made_with[name] for name in DRAWN if name in made_with}}
    )
    sampling = Sampling(
        sampler=settings.sampler, steps=settings.steps, guidance=settings.guidance, seed=settings.seed
    )
    family = release.family(adapted=False)
    classes = release.classes(family, (made_with.get("classes") or {}).get("prompts"))
    names = like.class_names
    if classes is not None:  # without names, folders are numbers: in another order, and not of all classes
        names = classes.names or tuple(map(str, range(len(classes.labels))))
    if not set(names) & set(like.class_names):  # files that know numbers alone count by place
        names = like.class_names
    answers = _labels_are_answers(made_with, release)
    asked = labels_of(len(like.labels), classes, made_with) if answers else None
    labels = like.numbered_as(names).labels if asked is None else asked
    numbers = labels if classes is None else np.array(classes.labels, np.int64)[labels]
    key = json.dumps([family.base.sha256, asdict(sampling), numbers.tolist()])
    kept = run / "private" / "public-model-images.npz"
    pixels = _kept(kept, key)
    if pixels is not None:
        return LabelledImages(images=pixels, labels=labels, class_names=names)
    pixels = np.concatenate(list(sample(family, numbers, len(labels), sampling)))
    if kept.parent.is_dir():
        with replacing(kept) as stream:
            np.savez(stream, images=pixels, key=np.array(key))
    return LabelledImages(images=pixels, labels=labels, class_names=names)


def _labels_are_answers(request: Mapping[str, Any], release: Release) -> bool:
    """Whether a teacher gave the labels; also where nobody knows, and there is a teacher that may have."""
    return request.get("teacher") == "relabel" or (not request and release.teacher is not None)


def _kept(path: Path, key: str) -> NDArray[np.uint8] | None:
    """The images kept under `key`; None where there are none, or where the file is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream) as stored:
            return np.asarray(stored["images"], np.uint8) if str(stored["key"]) == key else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def public_images_of(run: Path, size: int, channels: int) -> LabelledImages | None:
    """The public images that the run's base was trained on, where the base's folder says which.

    Of a run whose recipe maps its classes to the base's, those of these classes, under the run's names.
    """
    from dp_diffusers.data.public_images import load_public
    from dp_diffusers.release import Release

    release = Release.open(run)
    settings = release.settings()
    record = Path(str(settings["base"])) / "pretraining.json"
    if not record.exists():
        return None
    recipe = json.loads(record.read_text())["recipe"]
    public = load_public(recipe["data"], size, channels, recipe["training"]["seed"])
    found = LabelledImages(images=public.images, labels=public.labels, class_names=public.class_names)
    return _renamed(found, release.certificate.classes) if declared_entries(settings) else found


def _renamed(public: LabelledImages, classes: Mapping[str, Any] | None) -> LabelledImages:
    """The images of the released classes alone, by the names and places that these have in the release."""
    assert classes is not None  # a run with such a mapping has declared them
    place = np.full(len(public.class_names), -1, np.int64)
    place[classes["labels"]] = np.arange(len(classes["labels"]))
    labels = place[public.labels]
    kept = labels >= 0
    return LabelledImages(
        images=public.images[kept], labels=labels[kept], class_names=tuple(classes["names"])
    )
