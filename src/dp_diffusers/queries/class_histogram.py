"""The class histogram of a run: asked once, paid for before it is drawn, kept in the safe until the release.

Guarantees:
- whenever a process dies, a result that is used was paid for, and one that was lost is paid for again;
- only declared classes are counted, so that no unit decides how many numbers are released.
May import numpy and the mechanism. What is computed from the noisy counts is post-processing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.histogram import NAME, class_counts, noisy_counts, proportions, query_of
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.undisturbed import undisturbed

FILE: Final = "histogram.json"


def require_classes(plan: Any, classes: ReleasedClasses | None) -> None:
    """Raises `ParameterError` unless the plan's histogram counts exactly the declared classes."""
    query = query_of(plan.queries)
    if query is None:
        return
    if classes is None:
        raise ParameterError(
            "a class histogram needs classes, and the base model has none",
            hint="set generation.labels to uniform, or take a base model that is conditional on classes",
        )
    if query.classes != len(classes.labels):
        raise ParameterError(
            f"the plan's histogram counts {query.classes} classes, {len(classes.labels)} are declared",
            hint="declare them: data.classes, or the class names of the base model",
        )


def released_proportions(
    plan: Any,
    classes: ReleasedClasses | None,
    *,
    data: PrivateImages,
    account: Any,
    keys: Any,
    folder: RunFolder,
    progress: Callable[..., None],
) -> tuple[float, ...] | None:
    """Part of each class, in the order of `classes`; None for a plan without a histogram.

    data: labels in the numbering of the base. account: the run's reservation, with the lane of `keys` open.
    The first call pays and draws; later ones, of any process, use what it kept.
    """
    query = query_of(plan.queries)
    if query is None:
        return None
    require_classes(plan, classes)
    assert classes is not None
    noisy = _kept(folder, account)
    if noisy is None:
        position = np.where(takes_part(plan, data), class_positions(data, classes), -1)
        counts = class_counts(position, data.owner, data.unit_count, query.classes)
        with undisturbed():  # what is lost from here on was paid for
            receipt = account.charge_query(NAME)  # pay, then noise
            noisy = noisy_counts(query, counts, keys, receipt, plan.fingerprint).tolist()
            folder.write(FILE, {"lane": keys.lane.hex(), "noisy": noisy})
    if max(noisy) <= 0:
        progress(message="the noisy class counts are all 0 or below: images are made of each class alike")
    return proportions(noisy)


def _kept(folder: RunFolder, account: Any) -> list[float] | None:
    """The noisy counts of an earlier start, if this run has paid for them in this ledger."""
    known = folder.read(FILE)
    if known is None or not account.has_paid(NAME, known["lane"]):
        return None
    return [float(value) for value in known["noisy"]]


def takes_part(plan: Any, data: PrivateImages) -> np.ndarray:
    """bool `[N]`: with a hard limit of a sample, units beyond the population have no slot, and no count."""
    if plan.not_private or plan.mechanism.max_units is None:
        return np.ones(len(data.owner), bool)
    taking: np.ndarray = data.owner < plan.mechanism.population
    return taking


def class_positions(data: PrivateImages, classes: ReleasedClasses) -> np.ndarray:
    """int64 `[N]`: the place of each image's class among `classes`; -1 for none of them."""
    assert data.labels is not None
    place = np.full(max(classes.labels) + 1, -1, np.int64)
    place[list(classes.labels)] = np.arange(len(classes.labels))
    inside = data.labels < len(place)
    return np.where(inside, place[np.where(inside, data.labels, 0)], -1)
