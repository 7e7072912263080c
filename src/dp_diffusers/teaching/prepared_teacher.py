"""All of a teacher that is no question: features, the images that scale them, and groups of those images.

Guarantees:
- features and given public images are opened before the ledger is touched;
- images that are drawn come from the base, or from what the steps have released: never from private ones;
- public images that are private ones are refused, wherever they lie;
- a run goes on with the features and public images that its sums were made with, or not at all.
May import numpy, the data and the family that they meet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp_diffusers.classes.conditions import classes_of, set_conditions
from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.data.apart import Shown, require_apart
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.public_images import load_public
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import balanced_labels, require_sampler, sample
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.evaluation.embedding import kept_of
from dp_diffusers.evaluation.features import Features, features_named
from dp_diffusers.evolution.population import sampling_of
from dp_diffusers.mechanisms.teacher import query_of
from dp_diffusers.queries.kept_sums import KeptSums, kept_sums
from dp_diffusers.recipe import GenerationSettings
from dp_diffusers.recipe.checks import DRAWN_BY_BASE, UNTRAINED
from dp_diffusers.recipe.sections.teacher import TeacherSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.teaching.public_clusters import MOST_PER_CLUSTER, PER_CLUSTER, Clusters, clusters_of
from dp_diffusers.teaching.public_whitening import Whitening, whitening_of

FILE: Final = "teacher.safetensors"  # in the safe
DRAWN: Final = 2000  # images of a model that stand in for public ones
UNPROTECTED: Final = "they scale the features without noise: give images that anyone may see"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """What makes a row of the features of an image, and the groups of such rows, if any were asked for."""

    whitening: Whitening
    clusters: Clusters | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedTeacher:
    """What a teacher looks with. shown: of the public images that were given; None for drawn ones.

    public: what the certificate says of them. scaling: None where the trained model is to draw.
    """

    settings: TeacherSettings
    features: Features
    classes: ReleasedClasses
    shown: Shown | None
    public: Mapping[str, Any] | None
    scaling: Scaling | None
    base: str | None = None
    """Hash of a base that releases are in: what it draws is theirs."""

    @property
    def after_the_steps(self) -> bool:
        """Whether it is asked once the model is trained."""
        return self.settings.drawn_by == "trained"

    def refuse_private(self, data: PrivateImages) -> None:
        """Raises `ParameterError` where a public image is a private one; see `PublicBatches`."""
        if self.shown is not None and self.shown.meets(data):
            raise ParameterError(
                f"teacher.public {self.settings.public} holds images that are among the private ones",
                hint=UNPROTECTED,
            )

    def record(self) -> dict[str, Any]:
        """What a certificate says of the teacher beside its query."""
        record: dict[str, Any] = {"features": self.features.name, "sha256": self.features.sha256}
        record |= {"dimensions": self.settings.dimensions, "public": self.public}
        if self.settings.clusters is not None:
            record["clusters"] = self.settings.clusters
        return record | ({"drawn_by": self.settings.drawn_by} if self.after_the_steps else {})

    @property
    def made_of(self) -> str:
        """The record in one word, for what is kept beside the sums."""
        based = {} if self.base is None else {"base": self.base}
        return json.dumps(self.record() | based, sort_keys=True)


def require_teacher(
    plan: Any, settings: TeacherSettings | None, family: Family, recipe: Mapping[str, Any]
) -> ReleasedClasses | None:
    """The classes that the teacher tells apart; None for a run without one.

    Raises `ParameterError` unless the plan pays for just this teacher, and the base has classes for it.
    """
    query = query_of(plan.queries)
    if settings is None:
        if query is not None:
            raise ParameterError(
                "the plan pays for a teacher that the run does not ask for",
                hint="give teacher=, or calibrate a plan without the query",
            )
        return None
    if settings.drawn_by == "trained" and plan.mechanism.name == "pe":
        raise ParameterError(UNTRAINED, hint=DRAWN_BY_BASE)
    classes = classes_of(family, recipe)
    if classes is None or len(classes.labels) < 2:
        what = "learns from texts without classes" if family.takes_text else "has fewer than two classes"
        raise ParameterError(
            f"a teacher tells classes apart, and the base model {family.base.identity} {what}",
            hint="leave teacher out, or give data.label and data.classes"
            + (" with {label} in data.caption" if family.takes_text else ""),
        )
    asked = (len(classes.labels), settings.dimensions, settings.clusters)
    paid = None if query is None else (query.classes, query.dimensions, query.clusters)
    if not plan.not_private and paid != asked:
        raise ParameterError(
            f"the run asks for a teacher of {_words(*asked)}, "
            f"the plan pays for {'none' if paid is None else _words(*paid)}",
            hint="Plan.calibrate(budget, mechanism, "
            "[teacher_query(budget, classes, dimensions=…, clusters=…)])",
        )
    return classes


def _words(classes: int, dimensions: int, clusters: int | None) -> str:
    counted = "" if clusters is None else f" and {clusters} clusters"
    return f"{classes} classes of {dimensions} dimensions{counted}"


def prepared_teacher(
    settings: TeacherSettings,
    classes: ReleasedClasses,
    family: Family,
    recipe: Mapping[str, Any],
    *,
    private: str | None,
    folder: RunFolder | None,
    progress: Callable[..., None],
) -> PreparedTeacher:
    """Features and how they scale, from public images; draws them with the base, if it is to.

    family: before anything is adapted, on its device. private: where the private images lie, if that is
    known. folder: of the run, whose earlier start may have scaled them. Raises `ParameterError`, `DataError`,
    `ModelError` for what cannot be used, `RunFolderError` where that start had other features or public
    images.
    """
    features = features_named(settings.features)
    if settings.dimensions > features.dim:
        raise ParameterError(
            f"expected teacher.dimensions <= {features.dim}, those of {features.name}; "
            f"got {settings.dimensions}"
        )
    images, public, shown = None, None, None
    if settings.public is not None:
        images = _opened(settings.public, family, private)
        shown = Shown.by(settings.public, images)
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        public = {"name": Path(settings.public).name, "sha256": digest, "images": len(images)}
    else:
        features.of(np.zeros((1, family.size, family.size, family.channels), np.uint8))  # or refused here
    prepared = PreparedTeacher(
        settings=settings,
        features=features,
        classes=classes,
        shown=shown,
        public=public,
        scaling=None,
        base=str(family.base.sha256) if family.base.merged_from else None,
    )
    known = None if folder is None else kept_by(prepared, folder)
    if prepared.after_the_steps:  # what is kept may be another model's: it counts once it is known to be paid
        return prepared
    if known is not None:
        return replace(prepared, scaling=scaling_of(known))
    if images is not None:
        return replace(prepared, scaling=_scaling_by(prepared, images))
    return replace(prepared, scaling=drawn_scaling(prepared, family, recipe, progress))


def drawn_scaling(
    prepared: PreparedTeacher, family: Family, recipe: Mapping[str, Any], progress: Callable[..., None]
) -> Scaling:
    """By images that the model draws as it is: the base, or what the steps released of it.

    family: on its device. Raises `ParameterError` where its images cannot scale the features.
    """
    clusters = prepared.settings.clusters
    count = max(DRAWN, PER_CLUSTER * (clusters or 0))
    whose = "trained model" if prepared.after_the_steps else "base"
    progress(message=f"drawing {count:,} images of the {whose}, for the teacher")
    labels = _labels(prepared, family, count)
    set_conditions(family, recipe)
    sampling = sampling_of(generation_of(recipe))
    require_sampler(family, sampling)
    return _scaling_by(prepared, np.concatenate(list(sample(family, labels, count, sampling))))


def _labels(prepared: PreparedTeacher, family: Family, count: int) -> np.ndarray | None:
    """Equally many images of all classes that the base knows; of the trained model, of those it learnt."""
    classes = prepared.classes.labels
    if family.takes_text:
        return balanced_labels(count, len(classes))
    if prepared.after_the_steps:
        return np.asarray(classes, np.int64)[np.arange(count) % len(classes)]
    return balanced_labels(count, family.classes)


def _opened(path: str, family: Family, private: str | None) -> np.ndarray:
    if private is not None:
        require_apart("teacher.public", path, private, hint=UNPROTECTED)
    source = {"source": "files", "path": path, "label": None}
    return load_public([source], family.size, family.channels, 0).images


def generation_of(recipe: Mapping[str, Any]) -> GenerationSettings:
    """How the run draws; a call in Python does not say."""
    return GenerationSettings(**(recipe.get("generation") or {}))


def _scaling_by(prepared: PreparedTeacher, images: np.ndarray) -> Scaling:
    features, settings = prepared.features, prepared.settings
    whitening = whitening_of(features, images[kept_of(len(images))], settings.dimensions)
    clusters = grouped(features, whitening, images, settings.clusters)
    return Scaling(whitening=whitening, clusters=clusters)


def grouped(
    features: Features, whitening: Whitening, images: np.ndarray, count: int | None
) -> Clusters | None:
    """Clusters of images, of a fixed choice where there are many; None where nobody asks for any."""
    if count is None:
        return None
    some = np.sort(np.random.default_rng(0).permutation(len(images))[: MOST_PER_CLUSTER * count])
    rows = [rows for _, rows in whitening.of_images(features, images[some])]
    return clusters_of(np.concatenate(rows), count)


def kept_by(prepared: PreparedTeacher, folder: RunFolder) -> KeptSums | None:
    """What an earlier start of the run left in the safe.

    Raises `RunFolderError` for a damaged file, and for one of other features or public images.
    """
    known = kept_sums(folder.private / FILE, "mean", "projection")
    if known is not None and known.made_of != prepared.made_of:
        raise RunFolderError(
            "the teacher of this run was made with other features or public images than there are now",
            hint="put teacher.features and teacher.public back as they were, or give another --out",
        )
    return known


def scaling_of(known: KeptSums) -> Scaling:
    """What the kept sums were made with."""
    tensors = known.tensors
    whitening = Whitening(mean=tensors["mean"], projection=tensors["projection"])
    clusters = Clusters(centres=tensors["centres"]) if "centres" in tensors else None
    return Scaling(whitening=whitening, clusters=clusters)
