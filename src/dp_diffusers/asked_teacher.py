"""The teacher of a run: prepared from public images, asked once, paid for before its noise, kept in the safe.

Guarantees:
- all that is public (features, public images, how they scale) is there before the ledger is touched;
- public images that are private ones are refused, wherever they lie;
- a run goes on with the features and public images that its sums were made with, or not at all;
- whenever a process dies, a result that is used was paid for, and one that was lost is paid for again.
May import numpy, the mechanism, the data and the family that they meet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp_diffusers.class_histogram import class_positions, takes_part
from dp_diffusers.conditions import classes_of, set_conditions
from dp_diffusers.data.apart import Shown, require_apart
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.data.public_images import load_public
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import balanced_labels, require_sampler, sample
from dp_diffusers.errors import ModelError, ParameterError, RunFolderError
from dp_diffusers.evaluation.embedding import kept_of
from dp_diffusers.evaluation.features import EXTRACTORS, Features, features_named, network_file
from dp_diffusers.evolution_population import sampling_of
from dp_diffusers.kept_sums import KeptSums, kept_sums
from dp_diffusers.mechanisms.teacher import (
    NAME,
    Sums,
    cluster_counts,
    counts_of,
    noisy_sums,
    query_of,
    weights_of,
)
from dp_diffusers.public_clusters import MOST_PER_CLUSTER, PER_CLUSTER, Clusters, clusters_of
from dp_diffusers.public_whitening import Whitening, whitening_of
from dp_diffusers.recipe import GenerationSettings
from dp_diffusers.recipe.sections.teacher import TeacherSettings
from dp_diffusers.released_classes import ReleasedClasses
from dp_diffusers.run_folder import RunFolder
from dp_diffusers.teacher import NETWORK, Teacher
from dp_diffusers.teacher_kinds import Counted, Kind, Linear
from dp_diffusers.tenths import by_tenths
from dp_diffusers.whole_files import replacing

FILE: Final = "teacher.safetensors"  # in the safe
DRAWN: Final = 2000  # images of the base that stand in for public ones
UNPROTECTED: Final = "they scale the features without noise: give images that anyone may see"


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedTeacher:
    """All of a teacher that is public. shown: of the public images that were given; None for drawn ones.

    public: what the certificate says of them.
    """

    settings: TeacherSettings
    features: Features
    classes: ReleasedClasses
    whitening: Whitening
    shown: Shown | None
    public: Mapping[str, Any] | None
    clusters: Clusters | None = None

    def refuse_private(self, data: PrivateImages) -> None:
        """Raises `ParameterError` where a public image is a private one; see `PublicBatches`."""
        if self.shown is not None and self.shown.meets(data):
            raise ParameterError(
                f"teacher.public {self.settings.public} holds images that are among the private ones",
                hint=UNPROTECTED,
            )

    def record(self) -> dict[str, Any]:
        """What a certificate says of the teacher beside its query."""
        features = {"features": self.features.name, "sha256": self.features.sha256}
        clusters = self.settings.clusters
        counted = {} if clusters is None else {"clusters": clusters}
        return {**features, "dimensions": self.settings.dimensions, "public": self.public, **counted}

    @property
    def made_of(self) -> str:
        """The record in one word, for what is kept beside the sums."""
        return json.dumps(self.record(), sort_keys=True)


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
    folder: RunFolder | None,
    progress: Callable[..., None],
) -> PreparedTeacher:
    """Features and how they scale, from public images; draws them with the base where none are given.

    family: before anything is adapted, on its device. folder: of the run, whose earlier start may have
    scaled them. Raises `ParameterError`, `DataError`, `ModelError` for what cannot be used, `RunFolderError`
    where that start had other features or public images.
    """
    features = features_named(settings.features)
    if settings.dimensions > features.dim:
        raise ParameterError(
            f"expected teacher.dimensions <= {features.dim}, those of {features.name}; "
            f"got {settings.dimensions}"
        )
    images, public, shown = None, None, None
    if settings.public is not None:
        images = _opened(settings.public, family, recipe)
        shown = Shown.by(settings.public, images)
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        public = {"name": Path(settings.public).name, "sha256": digest, "images": len(images)}
    known = None if folder is None else _kept_file(folder)
    if known is not None:
        tensors = known.tensors
        whitening = Whitening(mean=tensors["mean"], projection=tensors["projection"])
        clusters = Clusters(centres=tensors["centres"]) if "centres" in tensors else None
    else:
        if images is None:
            count = max(DRAWN, PER_CLUSTER * (settings.clusters or 0))
            progress(message=f"drawing {count:,} images of the base, for the teacher")
            images = _drawn(family, classes, recipe, count)
        whitening = whitening_of(features, images[kept_of(len(images))], settings.dimensions)
        clusters = _grouped(features, whitening, images, settings.clusters)
    prepared = PreparedTeacher(
        settings=settings,
        features=features,
        classes=classes,
        whitening=whitening,
        clusters=clusters,
        shown=shown,
        public=public,
    )
    if known is not None and known.made_of != prepared.made_of:
        raise RunFolderError(
            "the teacher of this run was made with other features or public images than there are now",
            hint="put teacher.features and teacher.public back as they were, or give another --out",
        )
    return prepared


def _opened(path: str, family: Family, recipe: Mapping[str, Any]) -> np.ndarray:
    private = (recipe.get("data") or {}).get("path")  # a call in Python has none
    if private is not None:
        require_apart("teacher.public", path, private, hint=UNPROTECTED)
    source = {"source": "files", "path": path, "label": None}
    return load_public([source], family.size, family.channels, 0).images


def _drawn(family: Family, classes: ReleasedClasses, recipe: Mapping[str, Any], count: int) -> np.ndarray:
    """Images of the base as it is: of all of its classes, or of the texts."""
    set_conditions(family, recipe)
    labels = balanced_labels(count, len(classes.labels) if family.takes_text else family.classes)
    sampling = sampling_of(GenerationSettings(**(recipe.get("generation") or {})))
    require_sampler(family, sampling)
    return np.concatenate(list(sample(family, labels, count, sampling)))


def _grouped(
    features: Features, whitening: Whitening, images: np.ndarray, count: int | None
) -> Clusters | None:
    """Clusters of public images, of a fixed choice where there are many; None where nobody asks for any."""
    if count is None:
        return None
    some = np.sort(np.random.default_rng(0).permutation(len(images))[: MOST_PER_CLUSTER * count])
    rows = [rows for _, rows in whitening.of_images(features, images[some])]
    return clusters_of(np.concatenate(rows), count)


def released_teacher(
    plan: Any,
    prepared: PreparedTeacher,
    *,
    data: PrivateImages,
    account: Any,
    keys: Any,
    folder: RunFolder,
    progress: Callable[..., None],
) -> Teacher:
    """The classifier, from sums with their noise; without noise for a plan that is not private.

    data: labels in the numbering of the base. account: the run's reservation, with the lane of `keys` open.
    The first call pays and draws; later ones, of any process, use what it kept.
    """
    network, released = _network(folder, prepared), _kept(folder, account)
    if released is None:
        what = f"looking at the features {prepared.features.name} of all images, for the teacher"
        progress(message=what)
        released = sums_of(plan, prepared, data, by_tenths(lambda line: progress(message=line), what))
        if (query := query_of(plan.queries)) is not None:
            receipt = account.charge_query(NAME)  # pay, then noise
            released = noisy_sums(query, released, keys, receipt, plan.fingerprint)
            _keep(folder, prepared, released, keys.lane.hex())
    if prepared.clusters is not None:
        progress(message=f"fitting labels to the counts of {len(prepared.clusters):,} clusters")
    return _taught(plan, prepared, released, network)


def sums_of(
    plan: Any,
    prepared: PreparedTeacher,
    data: PrivateImages,
    done: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """The sums over all units, without noise: private. done: gets the share of images seen."""
    classes = prepared.classes
    position = np.where(takes_part(plan, data), class_positions(data, classes), -1)
    weight = 1.0 / np.maximum(np.bincount(data.owner, minlength=data.unit_count), 1)[data.owner]
    sums = Sums(prepared.whitening.width, len(classes.labels))
    cluster = np.full(len(data.owner), -1, np.int64)
    for where, rows in prepared.whitening.of_images(prepared.features, data.images):
        if prepared.clusters is None:
            sums.add(rows, position[where], weight[where])
        else:
            cluster[where] = prepared.clusters.of(rows)
        done(where.stop / len(data.images))
    if prepared.clusters is None:
        return sums.vector
    sizes = (len(prepared.clusters), len(classes.labels))
    return cluster_counts(*sizes, cluster, position, data.owner, data.unit_count)


def _network(folder: RunFolder, prepared: PreparedTeacher) -> Path | None:
    """A network of one's own, copied to the safe: it is as it was when the release is written, days later.

    Raises `ModelError` where it is not any more what the features were opened from.
    """
    if prepared.settings.features in EXTRACTORS:
        return None
    place = Path(prepared.settings.features)
    try:
        content = network_file(place).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != prepared.features.sha256:
        raise ModelError(f"teacher.features: {place} was changed meanwhile", hint="run the command again")
    with replacing(folder.private / NETWORK) as stream:
        stream.write(content)
    return folder.private / NETWORK


def _taught(plan: Any, prepared: PreparedTeacher, released: np.ndarray, network: Path | None) -> Teacher:
    return Teacher(
        features=prepared.features.name,
        sha256=prepared.features.sha256,
        classes=prepared.classes,
        whitening=prepared.whitening,
        kind=_kind(plan, prepared, released),
        network=network,
    )


def _kind(plan: Any, prepared: PreparedTeacher, released: np.ndarray) -> Kind:
    query, classes = query_of(plan.queries), len(prepared.classes.labels)
    noise = 0.0 if query is None else query.noise_multiplier
    if prepared.clusters is not None:
        counts = counts_of(released, classes=classes, noise_multiplier=noise)
        totals = released.reshape(-1, classes).sum(0)
        return Counted.of(prepared.clusters, counts, totals, noise)
    population = plan.mechanism.population
    return Linear(
        weights=weights_of(released, classes=classes, population=population, noise_multiplier=noise)
    )


def _keep(folder: RunFolder, prepared: PreparedTeacher, released: np.ndarray, lane: str) -> None:
    whitening = prepared.whitening
    tensors = {"mean": whitening.mean, "projection": whitening.projection, "released": released}
    tensors |= {} if prepared.clusters is None else {"centres": prepared.clusters.centres}
    KeptSums(tensors=tensors, lane=lane, made_of=prepared.made_of).save(folder.private / FILE)


def _kept(folder: RunFolder, account: Any) -> np.ndarray | None:
    """The sums of an earlier start, if this run has paid for them in this ledger."""
    known = None if account is None else _kept_file(folder)
    return None if known is None or not account.has_paid(NAME, known.lane) else known.released


def _kept_file(folder: RunFolder) -> KeptSums | None:
    return kept_sums(folder.private / FILE, "mean", "projection")
