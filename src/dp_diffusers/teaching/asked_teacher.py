"""The teacher of a run: asked once, paid for before its noise, kept in the safe.

Guarantee: whenever a process dies, a result that is used was paid for, and one that was lost is paid for
again, or where nothing is left to pay with is given up. May import numpy, the mechanism, the data and the
family that they meet. `prepared_teacher` has all that is no question to private images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import ModelError
from dp_diffusers.evaluation.features import EXTRACTORS, network_file
from dp_diffusers.mechanisms.teacher import (
    NAME,
    Sums,
    cluster_counts,
    counts_of,
    noisy_sums,
    query_of,
    weights_of,
)
from dp_diffusers.queries.class_histogram import class_positions, takes_part
from dp_diffusers.queries.kept_sums import KeptSums
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.teaching.prepared_teacher import FILE, PreparedTeacher, Scaling, kept_by, scaling_of
from dp_diffusers.teaching.public_clusters import Clusters
from dp_diffusers.teaching.public_whitening import NothingToScaleError
from dp_diffusers.teaching.teacher import NETWORK, Teacher
from dp_diffusers.teaching.teacher_kinds import Counted, Kind, Linear
from dp_diffusers.tenths import by_tenths
from dp_diffusers.undisturbed import undisturbed
from dp_diffusers.whole_files import replacing

LOST: Final = (
    "the teacher was paid for, its answer is not there, and no budget is left to ask again: the release "
    "has no teacher"
)


def released_teacher(
    plan: Any,
    prepared: PreparedTeacher,
    scale: Callable[[], Scaling],
    *,
    data: PrivateImages,
    account: Any,
    keys: Any,
    folder: RunFolder,
    progress: Callable[..., None],
) -> Teacher | None:
    """The classifier, from sums with their noise; without noise for a plan that is not private.

    scale: how features become rows, asked where no earlier start has kept it. data: labels in the numbering
    of the base. account: the run's reservation, with the lane of `keys` open. The first call pays and draws;
    later ones, of any process, use what it kept. None where there is none and, after the steps, nothing to
    pay with again: what was trained is not lost with it.
    """
    network = kept_network(folder, prepared)
    known = None if account is None else kept_by(prepared, folder)
    if known is not None and account.has_paid(NAME, known.lane):
        return _of(plan, prepared, scaling_of(known), known.released, network, progress)
    if prepared.after_the_steps and account is not None and account.has_lost(NAME):
        progress(message=LOST)
        return None
    if account is not None:
        account.require_open()
    try:
        scaling = scale()
    except NothingToScaleError as error:
        if not prepared.after_the_steps:
            raise
        _pay_for_nothing(account, error, progress)
        return None
    what = f"looking at the features {prepared.features.name} of all images, for the teacher"
    progress(message=what)
    done = by_tenths(lambda line: progress(message=line), what)
    released = sums_of(plan, prepared, scaling, data, done)
    if (query := query_of(plan.queries)) is not None:
        with undisturbed():  # what is lost from here on was paid for
            receipt = account.charge_query(NAME)  # pay, then noise; a second time it may be refused
            released = noisy_sums(query, released, keys, receipt, plan.fingerprint)
            _keep(folder, prepared, scaling, released, keys.lane.hex())
    return _of(plan, prepared, scaling, released, network, progress)


def _pay_for_nothing(account: Any, error: NothingToScaleError, progress: Callable[..., None]) -> None:
    """A model whose images scale nothing cannot be asked by, and its run ends as planned all the same: it
    may not end early because of what the steps released. Once is enough."""
    progress(message=f"the release has no teacher: {error.message}")
    if account is not None and not account.was_asked(NAME):
        account.charge_query(NAME)


def sums_of(
    plan: Any,
    prepared: PreparedTeacher,
    scaling: Scaling,
    data: PrivateImages,
    done: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """The sums over all units, without noise: private. done: gets the share of images seen."""
    classes = prepared.classes
    position = np.where(takes_part(plan, data), class_positions(data, classes), -1)
    weight = 1.0 / np.maximum(np.bincount(data.owner, minlength=data.unit_count), 1)[data.owner]
    sums = Sums(scaling.whitening.width, len(classes.labels))
    cluster = np.full(len(data.owner), -1, np.int64)
    for where, rows in scaling.whitening.of_images(prepared.features, data.images):
        if scaling.clusters is None:
            sums.add(rows, position[where], weight[where])
        else:
            cluster[where] = scaling.clusters.of(rows)
        done(where.stop / len(data.images))
    if scaling.clusters is None:
        return sums.vector
    sizes = (len(scaling.clusters), len(classes.labels))
    return cluster_counts(*sizes, cluster, position, data.owner, data.unit_count)


def kept_network(folder: RunFolder, prepared: PreparedTeacher) -> Path | None:
    """A network of one's own, copied to the safe: it is as it was when the release is written, days later.

    Raises `ModelError` where it is not any more what the features were opened from, and there is no copy.
    """
    if prepared.settings.features in EXTRACTORS:
        return None
    kept = folder.private / NETWORK
    if kept.exists() and hashlib.sha256(kept.read_bytes()).hexdigest() == prepared.features.sha256:
        return kept
    place = Path(prepared.settings.features)
    try:
        content = network_file(place).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != prepared.features.sha256:
        raise ModelError(f"teacher.features: {place} was changed meanwhile", hint="run the command again")
    with replacing(kept) as stream:
        stream.write(content)
    return kept


def _of(
    plan: Any,
    prepared: PreparedTeacher,
    scaling: Scaling,
    released: np.ndarray,
    network: Path | None,
    progress: Callable[..., None],
) -> Teacher:
    if scaling.clusters is not None:
        progress(message=f"fitting labels to the counts of {len(scaling.clusters):,} clusters")
    return Teacher(
        features=prepared.features.name,
        sha256=prepared.features.sha256,
        classes=prepared.classes,
        whitening=scaling.whitening,
        kind=_kind(plan, prepared, scaling.clusters, released),
        network=network,
    )


def _kind(plan: Any, prepared: PreparedTeacher, clusters: Clusters | None, released: np.ndarray) -> Kind:
    query, classes = query_of(plan.queries), len(prepared.classes.labels)
    noise = 0.0 if query is None else query.noise_multiplier
    if clusters is not None:
        counts = counts_of(released, classes=classes, noise_multiplier=noise)
        totals = released.reshape(-1, classes).sum(0)
        return Counted.of(clusters, counts, totals, noise)
    population = plan.mechanism.population
    return Linear(
        weights=weights_of(released, classes=classes, population=population, noise_multiplier=noise)
    )


def _keep(
    folder: RunFolder, prepared: PreparedTeacher, scaling: Scaling, released: np.ndarray, lane: str
) -> None:
    whitening, clusters = scaling.whitening, scaling.clusters
    tensors = {"mean": whitening.mean, "projection": whitening.projection, "released": released}
    tensors |= {} if clusters is None else {"centres": clusters.centres}
    KeptSums(tensors=tensors, lane=lane, made_of=prepared.made_of).save(folder.private / FILE)
