"""Public images for pre-training, from one source or several, with one numbering of their classes.

Guarantees: labels lie in range(len(class_names)); classes of equal name are one class, other classes follow
in the order of the sources; a batch takes from each source in proportion to its weight, whatever its size.
May import numpy and its sources (PIL, pyarrow, scipy); never torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dp_diffusers.errors import DataError, ParameterError, unknown_name, within

SHOWN: Final = 10  # classes, in a note
PUBLIC_SOURCES: dict[str, str] = {
    "drawn_digits": "dp_diffusers.data.drawn_digits:public_source",
    "files": "dp_diffusers.data.public_files:public_source",
}
"""Kind of source -> function that loads it; listed without being imported."""


@dataclass(frozen=True, kw_only=True)
class PublicPart:
    """What one source gives: images uint8 [N, H, W, C], labels int64 [N], a name for each label.

    unnamed: what the source is called, where its labels are numbers that it has no names for.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unnamed: str | None = None


PublicSource = Callable[[Mapping[str, Any], int, int, int], PublicPart]


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicImages:
    """Public images and their classes.

    images: uint8 [N, H, W, C]. labels: int64 [N]. class_names: one per class. shares: float64 [N], each
    image's share of a batch (sums to 1); empty means equal shares. notes: what was changed on the way in.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    notes: tuple[str, ...] = ()

    def choose(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Indices [count] drawn with replacement, an image as often as its share says."""
        if not len(self.shares):
            return random.integers(0, len(self.images), count)
        return np.searchsorted(self._edges, random.random(count), side="right").astype(np.int64)

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        edges: NDArray[np.float64] = np.cumsum(self.shares)
        edges /= edges[-1]
        return edges

    def __repr__(self) -> str:
        return f"PublicImages({'x'.join(map(str, self.images.shape))}, classes={len(self.class_names)})"


def load_public(sources: Sequence[Mapping[str, Any]], size: int, channels: int, seed: int) -> PublicImages:
    """Loads public images of one `size` (height and width) and 1 or 3 `channels`.

    `sources`: mappings with `source` (a kind of `PUBLIC_SOURCES`), `weight` (share of a batch, default 1) and
    the keys of that kind. Equal arguments give equal images. Raises `DataError`, `ParameterError`.
    """
    if not sources:
        raise DataError("no public source", hint="data: [{source: drawn_digits}]")
    if channels not in (1, 3):
        raise ParameterError(f"expected channels to be 1 or 3, got {channels}")
    parts = [_load(item, size, channels, seed, place) for place, item in enumerate(sources)]
    return merged(parts, [float(item.get("weight", 1.0)) for item in sources])


def _load(item: Mapping[str, Any], size: int, channels: int, seed: int, place: int) -> PublicPart:
    kind = str(item.get("source"))
    if kind not in PUBLIC_SOURCES:
        raise unknown_name("public source", kind, PUBLIC_SOURCES)
    module, name = PUBLIC_SOURCES[kind].split(":")
    function: PublicSource = getattr(import_module(module), name)
    # two sources of one kind must not repeat each other's images
    own_seed = int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0])
    return function(item, size, channels, own_seed)


def merged(parts: Sequence[PublicPart], weights: Sequence[float]) -> PublicImages:
    """One set of images out of several: classes of equal name become one; weights become shares.

    A note says where numbers without names became the classes of another source.
    """
    for weight in weights:
        within(1e-9, 1e9, weight=weight, hint="a source that should not count is left out instead")
    numbers: dict[str, int] = {}
    labels, shares = [], []
    for part, weight in zip(parts, weights):
        mapping = np.array([numbers.setdefault(name, len(numbers)) for name in part.class_names], np.int64)
        labels.append(mapping[part.labels])
        shares.append(np.full(len(part.images), weight / sum(weights) / len(part.images)))
    return PublicImages(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate(labels),
        class_names=tuple(numbers),
        shares=np.concatenate(shares),
        notes=(*(note for part in parts for note in part.notes), *_met_by_number(parts)),
    )


def _met_by_number(parts: Sequence[PublicPart]) -> Iterator[str]:
    """What to say of sources whose numbers are taken for classes of others: nobody wrote that they are."""
    for place, part in enumerate(parts):
        others = [*parts[:place], *(later for later in parts[place + 1 :] if later.unnamed is None)]
        known = {name for other in others for name in other.class_names}
        met = [name for name in part.class_names if name in known]
        if part.unnamed is not None and met:
            shown = ", ".join(met[:SHOWN]) + (", …" if len(met) > SHOWN else "")
            yield (
                f"{part.unnamed}: labels are numbers without names, taken for the classes {shown} of other "
                "sources"
            )
