"""Held-out real images behind a gate that writes down which figure read them.

Guarantees that real images and what was computed from them are handed out under the name of a figure alone,
so that what read them is known rather than declared: no budget covers such a figure. May import numpy.
"""

from __future__ import annotations

from collections.abc import Callable

from dp_diffusers.evaluation.embedding import Embedded, embed
from dp_diffusers.evaluation.features import Features
from dp_diffusers.evaluation.reading import LabelledImages


class HeldOut:
    """Real images of an evaluation: its reference, or real ones to train on.

    It keeps their vectors, so that several figures cost one pass.
    """

    def __init__(self, images: LabelledImages) -> None:
        self._images = images
        self._embedded: dict[tuple[str, str | None], Embedded] = {}
        self._readers: dict[str, None] = {}

    @property
    def count(self) -> int:
        """How many real images there are."""
        return len(self._images.images)

    @property
    def readers(self) -> tuple[str, ...]:
        """The figures that real images went into, in the order of their first reading."""
        return tuple(self._readers)

    def read(self, *figures: str) -> LabelledImages:
        """The images themselves, for `figures`."""
        self._readers |= dict.fromkeys(figures)
        return self._images

    def reader(self, *figures: str) -> Reader:
        """What a metric is given in place of the images; reading through it is reading for `figures`."""
        return Reader(self, figures)

    def embedded(
        self, figures: tuple[str, ...], features: Features, progress: Callable[..., None]
    ) -> Embedded:
        """The images as `features` see them, for `figures`."""
        self._readers |= dict.fromkeys(figures)
        key = features.name, features.sha256
        if key not in self._embedded:
            progress(message=f"reference: features {features.name}")
            self._embedded[key] = embed(features, self._images.images, progress)
        return self._embedded[key]


class Reader:
    """The gate as one metric sees it: the figures that it computes are fixed."""

    def __init__(self, held_out: HeldOut, figures: tuple[str, ...]) -> None:
        self._held_out, self._figures = held_out, figures

    def embedded(self, features: Features, progress: Callable[..., None]) -> Embedded:
        """The real images as `features` see them; the metric's figures are known to have read them."""
        return self._held_out.embedded(self._figures, features, progress)
