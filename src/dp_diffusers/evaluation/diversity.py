"""How many different images there are of each class: the Vendi score, beside that of real ones.

Guarantees that sets are compared in equal number, that those of made images are chosen without looking at
real ones, and that the reference is read through its gate alone. May import numpy. Vendi score with a cosine
kernel (Friedman & Dieng 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.evaluation.embedding import Embedded, kept_of, silent
from dp_diffusers.evaluation.held_out import HeldOut
from dp_diffusers.evaluation.reading import LabelledImages

LIMIT: Final = 500  # images of a class
OF_REFERENCE: Final = ("diversity_of_reference", "diversity_ratio")
Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Of one set, for each class: how many images it is worth, were they all different (NaN below two).

    per_class: of `images` images. reference: of `compared` real images. ratio: of as many of the set's to
    those real ones; 1 is as diverse as real images are.
    """

    of: str
    features: str
    sha256: str | None
    per_class: tuple[float, ...]
    images: tuple[int, ...]
    reference: tuple[float, ...]
    ratio: tuple[float, ...]
    compared: tuple[int, ...]

    def means(self) -> dict[str, float]:
        """Mean over the classes of each figure, NaN where no class has it."""
        found = {"diversity": self.per_class}
        found |= dict(zip(OF_REFERENCE, (self.reference, self.ratio)))
        return {name: _mean(values) for name, values in found.items()}


def vendi_score(vectors: NDArray[np.floating]) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosines of `vectors` [n, D]; in [1, n].

    n copies give 1, n orthogonal vectors n. A vector of zeros has no direction: it equals only its like. NaN
    for fewer than two vectors.
    """
    if len(vectors) < 2:
        return float("nan")
    rows = vectors.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    empty = lengths == 0
    rows /= np.where(empty, 1.0, lengths)[:, None]
    kernel = rows @ rows.T
    kernel[np.ix_(empty, empty)] = 1.0
    values = np.linalg.eigvalsh(kernel / len(rows))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def diversities(
    sets: Mapping[str, tuple[LabelledImages, Embedded]], held_out: HeldOut
) -> tuple[Diversity, ...]:
    """Of each set of made images. All of a class have as many images as the smallest set, at most 500."""
    made = {name: _by_class(images, embedded) for name, (images, embedded) in sets.items()}
    if not made:
        return ()
    features = next(iter(sets.values()))[1].features
    embedded = held_out.embedded(OF_REFERENCE, features, silent)
    real = _by_class(held_out.read(*OF_REFERENCE), embedded)
    sizes = [min([LIMIT, *map(len, parts)]) for parts in zip(*made.values())]
    shared = [min(size, len(part)) for size, part in zip(sizes, real)]
    of_real = [vendi_score(part[:size]) for part, size in zip(real, shared)]
    return tuple(
        _diversity(name, sets[name][1], parts, sizes, of_real, shared) for name, parts in made.items()
    )


def _diversity(
    of: str, seen: Embedded, parts: list[Vectors], sizes: list[int], real: list[float], shared: list[int]
) -> Diversity:
    own = [vendi_score(part[:size]) for part, size in zip(parts, sizes)]
    alike = [
        score if size == full else vendi_score(part[:size])
        for score, part, full, size in zip(own, parts, sizes, shared)
    ]
    return Diversity(
        of=of,
        features=seen.features.name,
        sha256=seen.features.sha256,
        per_class=tuple(own),
        images=tuple(sizes),
        reference=tuple(real),
        ratio=tuple(one / other for one, other in zip(alike, real)),
        compared=tuple(shared),
    )


def _by_class(images: LabelledImages, embedded: Embedded) -> list[Vectors]:
    """The vectors that were kept, of each class, in an order drawn by a fixed seed."""
    labels = images.labels[kept_of(embedded.count)]
    order = np.random.default_rng(0).permutation(len(labels))
    return [embedded.vectors[order[labels[order] == label]] for label in range(len(images.class_names))]


def _mean(values: tuple[float, ...]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
