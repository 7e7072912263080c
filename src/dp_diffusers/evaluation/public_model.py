"""The ε = 0 rows of a release: images of its base model without the adapter, and the base's public data.

Guarantees the same labels, sampler, steps, guidance and seed as the release's images, whatever `generate` was
told; the result is kept in `RUN/private/`. May import what `release` imports, when called.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.kept_images import KeptImages
from dp_diffusers.run_folder import RunFolder
from dp_diffusers.whole_files import replacing

DRAWN = ("sampler", "steps", "guidance", "seed")


def run_of(images: Path) -> Path | None:
    """The run folder that the images at RUN/release/images were made by, or None elsewhere."""
    release = images.resolve().parent
    return release.parent if (release / "certificate.json").exists() else None


def public_model_images(run: Path, like: LabelledImages) -> LabelledImages:
    """As many images as `like` has, of the same labels, from the run's base model without its adapter.

    Raises `ModelError` when the base is not the one of the certificate.
    """
    from dp_diffusers.diffusion.generation import Sampling, sample
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
    release.classes(family, (made_with.get("classes") or {}).get("prompts"))  # tells a family its texts
    names = tuple(family.base.class_names or like.class_names)
    if not set(names) & set(like.class_names):  # a base numbers such classes as the recipe's list does
        names = like.class_names
    labels = like.numbered_as(names).labels
    key = json.dumps([family.base.sha256, asdict(sampling), labels.tolist()])
    kept = run / "private" / "public-model-images.npz"
    pixels = _kept(kept, key)
    if pixels is not None:
        return LabelledImages(images=pixels, labels=labels, class_names=names)
    pixels = np.concatenate(list(sample(family, labels, len(labels), sampling)))
    if kept.parent.is_dir():
        with replacing(kept) as stream:
            np.savez(stream, images=pixels, key=np.array(key))
    return LabelledImages(images=pixels, labels=labels, class_names=names)


def _kept(path: Path, key: str) -> NDArray[np.uint8] | None:
    """The images kept under `key`; None where there are none, or where the file is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream) as stored:
            return np.asarray(stored["images"], np.uint8) if str(stored["key"]) == key else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def public_images_of(run: Path, size: int, channels: int) -> LabelledImages | None:
    """The public images that the run's base was trained on, where the base's folder says which."""
    from dp_diffusers.data.public_images import load_public
    from dp_diffusers.release import Release

    record = Path(str(Release.open(run).settings()["base"])) / "pretraining.json"
    if not record.exists():
        return None
    recipe = json.loads(record.read_text())["recipe"]
    public = load_public(recipe["data"], size, channels, recipe["training"]["seed"])
    return LabelledImages(images=public.images, labels=public.labels, class_names=public.class_names)
