"""What classifiers make of each set of images: trained on it, tested on the reference, once per seed.

Guarantees one schedule for every set, and that progress says of each set's accuracy that ε does not cover it.
May import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from dp_diffusers.errors import positive, whole, within
from dp_diffusers.evaluation.classifier import train_and_test
from dp_diffusers.evaluation.classifiers import Classifier
from dp_diffusers.evaluation.reading import LabelledImages
from dp_diffusers.evaluation.rows import Row


def require_schedule(seeds: int, passes: int | None) -> None:
    """Raises `ParameterError` for numbers that no training can have."""
    whole(seeds=seeds)
    within(2, 100, seeds=seeds, hint="an interval needs two seeds")
    if passes is not None:
        whole(passes=passes, hint="images seen in one training")
        positive(passes=passes, hint="images seen in one training")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The row of one set, and the classifier of each seed."""

    row: Row
    classifiers: tuple[nn.Module, ...]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What every set gets: `seeds` trainings of `passes` images each."""

    learner: Classifier
    seeds: int
    passes: int
    progress: Callable[..., None]

    def trial(self, name: str, train: LabelledImages, test: LabelledImages) -> Trial:
        """Trains on `train` with each seed and tests on `test`."""
        found = []
        for seed in range(self.seeds):
            model, result = train_and_test(
                (train.images, train.labels),
                (test.images, test.labels),
                seed=seed,
                passes=self.passes,
                classes=len(train.class_names),
                progress=partial(_told, self.progress),
                chosen=self.learner,
            )
            said = f"{name}: seed {seed + 1}/{self.seeds}, accuracy {result.accuracy:.2f} %"
            self.progress(message=f"{said} on real images, not covered by ε" if seed == 0 else said)
            found.append((model, result))
        row = Row.of(name, len(train.images), [result for _, result in found])
        return Trial(row=row, classifiers=tuple(model for model, _ in found))

    def teacher(self, images: LabelledImages) -> nn.Module:
        """One classifier that learnt from `images`, by the first seed; it is not tested."""
        self.progress(message="a teacher of the labels: one classifier, trained on the reference")
        return self.learner.trained(
            (images.images, images.labels),
            seed=0,
            passes=self.passes,
            classes=len(images.class_names),
            progress=partial(_told, self.progress),
        )


def _told(progress: Callable[..., None], step: int, steps: int) -> None:
    progress(step=step, steps=steps)
