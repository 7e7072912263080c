"""The moments of a run: asked once, paid for before their noise, kept in the safe.

Guarantees:
- which numbers of an image are asked about is decided by public numbers alone;
- what takes memory is bounded before the ledger is touched;
- whenever a process dies, a result that is used was paid for, and one that was lost is paid for again.
May import numpy, the mechanism, the data and the family that they meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dp_diffusers.classes.conditions import classes_of
from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.errors import ParameterError, RunFolderError
from dp_diffusers.mechanisms.moments import NAME, Gaussians, Products, gaussians_of, noisy_products, query_of
from dp_diffusers.queries.class_histogram import class_positions, takes_part
from dp_diffusers.queries.frequencies import DrawnImages, Frequencies
from dp_diffusers.queries.kept_sums import KeptSums, kept_sums
from dp_diffusers.recipe.sections.warmup import WarmupSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.tenths import by_tenths
from dp_diffusers.undisturbed import undisturbed

FILE: Final = "moments.safetensors"  # in the safe


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What is asked, all of it public. classes: None where the images are all of one kind."""

    settings: WarmupSettings
    frequencies: Frequencies
    classes: ReleasedClasses | None

    @property
    def count(self) -> int:
        """How many classes have moments of their own."""
        return 1 if self.classes is None else len(self.classes.labels)

    @property
    def made_of(self) -> str:
        """In one word: what the sums are about."""
        return json.dumps({**self.frequencies.record(), "classes": self.count}, sort_keys=True)

    def record(self) -> dict[str, Any]:
        """What a certificate says of the warm-up beside its query."""
        return self.settings.model_dump(exclude={"share"})

    def images(self, gaussians: Gaussians, seed: int) -> tuple[DrawnImages, np.ndarray | None]:
        """Images to draw, as many of each class, and their labels in the numbering of the family."""
        position = np.arange(self.settings.images) % self.count
        numbers = gaussians.draw(position, np.random.default_rng(seed))
        labels = None if self.classes is None else np.asarray(self.classes.labels, np.int64)[position]
        return DrawnImages(self.frequencies, numbers), labels


def require_moments(
    plan: Any, settings: WarmupSettings | None, family: Family, recipe: Mapping[str, Any]
) -> Moments | None:
    """What will be asked; None for a run without.

    Raises `ParameterError` unless the plan pays for just that, and where only private texts tell what an
    image shows.
    """
    query = query_of(plan.queries)
    if settings is None:
        if query is not None:
            raise ParameterError(
                "the plan pays for moments that the run does not ask for",
                hint="give warmup=, or calibrate a plan without the query",
            )
        return None
    classes = classes_of(family, recipe)
    if classes is None and family.takes_text:
        raise ParameterError(
            "a warm-up draws images of public classes or texts, and the captions are private",
            hint="leave warmup out, or set data.caption in the place of data.caption_column",
        )
    asked = (1 if classes is None else len(classes.labels), settings.dimensions)
    if not plan.not_private and (query is None or (query.classes, query.dimensions) != asked):
        paid = "none" if query is None else f"{query.classes} classes of {query.dimensions} dimensions"
        raise ParameterError(
            f"the warm-up asks for moments of {asked[0]} classes of {asked[1]} dimensions, the plan pays for "
            f"{paid}",
            hint="set data.label to null where the base has no classes; in Python, "
            "[moments_query(budget, classes, dimensions=…)] as queries of the plan",
        )
    frequencies = Frequencies.coarsest(
        size=family.size, channels=family.channels, dimensions=settings.dimensions
    )
    return Moments(settings=settings, frequencies=frequencies, classes=classes)


def released_moments(
    plan: Any,
    asked: Moments,
    *,
    data: PrivateImages,
    account: Any,
    keys: Any,
    folder: RunFolder,
    progress: Callable[..., None],
) -> Gaussians:
    """From sums with their noise; without noise for a plan that is not private.

    data: labels in the numbering of the base. account: the run's reservation, with the lane of `keys` open.
    The first call pays and draws; later ones, of any process, use what it kept.
    """
    query, released = query_of(plan.queries), _kept(folder, account, asked)
    if released is None:
        what = "looking at the coarse numbers of all images, for the warm-up"
        progress(message=what)
        released = products_of(plan, asked, data, by_tenths(lambda line: progress(message=line), what))
        if query is not None:
            with undisturbed():  # what is lost from here on was paid for
                receipt = account.charge_query(NAME)  # pay, then noise
                released = noisy_products(query, released, keys, receipt, plan.fingerprint)
                kept = KeptSums(tensors={"released": released}, lane=keys.lane.hex(), made_of=asked.made_of)
                kept.save(folder.private / FILE)
    noise = 0.0 if query is None else query.noise_multiplier
    return gaussians_of(released, classes=asked.count, noise_multiplier=noise)


def products_of(
    plan: Any, asked: Moments, data: PrivateImages, done: Callable[[float], None] = lambda share: None
) -> np.ndarray:
    """The sums over all units, without noise: private. done: gets the share of images seen."""
    count, frequencies = len(data.owner), asked.frequencies
    position = np.zeros(count, np.int64) if asked.classes is None else class_positions(data, asked.classes)
    position = np.where(takes_part(plan, data), position, -1)
    weight = 1.0 / np.maximum(np.bincount(data.owner, minlength=data.unit_count), 1)[data.owner]
    products = Products(frequencies.width, asked.count)
    for start in range(0, count, frequencies.at_once):
        part = slice(start, start + frequencies.at_once)
        products.add(frequencies.rows(np.asarray(data.images[part])), position[part], weight[part])
        done(part.stop / count)
    return products.vector


def _kept(folder: RunFolder, account: Any, asked: Moments) -> np.ndarray | None:
    """The sums of an earlier start, if this run has paid for them in this ledger.

    Raises `RunFolderError` where they are of other numbers than this version asks about.
    """
    known = None if account is None else kept_sums(folder.private / FILE)
    if known is None or not account.has_paid(NAME, known.lane):
        return None
    if known.made_of != asked.made_of:
        raise RunFolderError(
            "the moments of this run were made by another version of this package, in other numbers",
            hint="go on with that version, or give another --out; what this run was charged stays charged",
        )
    return known.released
