"""The loop of Private Evolution, to be read beside the algorithm of its paper: vote, pay, add noise, vary.

Guarantees:
- each iteration is paid for in the ledger before its noise is drawn; only votes with noise decide what is
  kept, and no private number reaches the screen;
- released votes are on disk before they are used, so that a run stopped while it makes images pays nothing
  again; one that loses votes between payment and disk pays for them again.
May import torch. Source: Lin, Gopi, Kulkarni, Nori and Yekhanin 2024 (ICLR, arXiv 2305.15560).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dp_diffusers import checkpoint
from dp_diffusers.classes.released_classes import ReleasedClasses
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.generation import balanced_labels, sample
from dp_diffusers.diffusion.variation import varied
from dp_diffusers.errors import BudgetExhausted, ParameterError
from dp_diffusers.evolution.features import features_named, nearest
from dp_diffusers.evolution.population import Population, parents, sampling_of
from dp_diffusers.evolution.settings import EvolutionSettings
from dp_diffusers.mechanisms.evolution import noisy_votes, votes
from dp_diffusers.queries.class_histogram import class_positions
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.tenths import by_tenths

Progress = Callable[..., None]


def require_evolvable(family: Family, classes: ReleasedClasses | None, settings: EvolutionSettings) -> None:
    """Raises `ParameterError` for a base without public conditions, and for fewer samples than classes."""
    features_named(settings.features)
    if family.takes_text and classes is None:
        raise ParameterError(
            "mechanism pe needs public texts to make images of, but the captions are private",
            hint="set data.caption, a text of all images or with {label}, and leave data.caption_column out",
        )
    if classes is not None and settings.samples < len(classes.labels):
        raise ParameterError(
            f"expected mechanism.samples >= the number of classes, {len(classes.labels)}, "
            f"got {settings.samples}",
            hint="each class needs a synthetic image that can be voted for",
        )
    if settings.generation.guidance != 1.0 and family.null_label is None:
        raise ParameterError(
            "guidance needs a model with a null class", hint="set generation.guidance to 1.0"
        )


@dataclass(kw_only=True)
class Evolution:
    """One start of one evolution: whose images vote, what they vote for, and where it pays."""

    family: Family
    data: PrivateImages
    plan: Any
    account: Any
    keys: Any
    settings: EvolutionSettings
    classes: ReleasedClasses | None
    folder: RunFolder
    progress: Progress

    def __post_init__(self) -> None:
        self.sampling = sampling_of(self.settings.generation)
        self.features = features_named(self.settings.features)
        self.step = 0
        self.complete = False
        self.images: np.ndarray | None = None
        self.released: np.ndarray | None = None  # votes that were paid for and not used yet
        places = balanced_labels(
            self.settings.samples, 0 if self.classes is None else len(self.classes.labels)
        )
        self.kinds = places
        self.numbers = None if places is None else self.base_numbers(places)

    @property
    def population(self) -> Population:
        """The images as they are."""
        assert self.images is not None
        return Population(images=self.images, classes=self.kinds)

    def base_numbers(self, places: np.ndarray) -> np.ndarray:
        """int64: classes as the base counts them, from their places among the released ones."""
        assert self.classes is not None
        numbers: np.ndarray = np.array(self.classes.labels, np.int64)[places]
        return numbers

    def run(self) -> None:
        """Evolves to the plan's last iteration or the limit of the budget."""
        self.resume()
        if self.images is None:
            first = sample(self.family, self.numbers, self.settings.samples, self.sampling)
            self.images = self.gathered(first, "drawing the images that are voted for first")
        if not self.complete:
            self.evolve()

    def evolve(self) -> None:
        """The algorithm: vote, pay, add noise, draw, vary."""
        steps = self.plan.mechanism.steps
        voters, labels = self.features(self.data.images), self.voter_classes()
        for step in range(self.step, steps):
            began = time.monotonic()
            try:
                if self.released is None:
                    self.account.require_affordable()
                    counts = self.count(step, voters, labels)
                    # pay, then noise; everything below is post-processing
                    self.released = self.add_noise(step, counts, self.account.charge(step))
                    self.save()
            except BudgetExhausted:
                self.progress(message=f"the budget is spent: the last {steps - step} steps are given up")
                break
            self.images = self.next_images(step, steps, self.released)
            self.released, self.step = None, step + 1
            self.save()
            self.report(step + 1, steps, time.monotonic() - began)
        self.complete = True
        self.save()

    def voter_classes(self) -> np.ndarray | None:
        """int64 `[N]`: the class among whose images each private one votes; -1 for none."""
        return None if self.classes is None else class_positions(self.data, self.classes)

    def count(self, step: int, voters: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """float64 `[S]`: votes without noise. Nothing but `add_noise` may see them."""
        assert self.images is not None
        found = nearest(voters, self.features(self.images), labels, self.kinds)
        units = self.plan.sampler(self.data.unit_count, self.keys).units(step)
        taking_part = np.zeros(self.data.unit_count, bool)
        taking_part[units] = True  # all of them, as the plan has it
        cast = np.where(taking_part[self.data.owner], found, -1)
        return votes(cast, self.data.owner, self.data.unit_count, len(self.images))

    def add_noise(self, step: int, counts: np.ndarray, receipt: Any) -> np.ndarray:
        """float64 `[S]`: what is released of an iteration."""
        return noisy_votes(
            counts,
            self.keys,
            receipt,
            step=step,
            noise_multiplier=self.plan.noise_multiplier,
            plan_fingerprint=self.plan.fingerprint,
        )

    def next_images(self, step: int, steps: int, released: np.ndarray) -> np.ndarray:
        """uint8 `[S, H, W, C]`: variations of the images that were voted for; each place keeps its class."""
        assert self.images is not None
        seed = self.sampling.seed
        chosen = parents(released, self.kinds, threshold=self.settings.threshold, seed=seed, step=step)
        new = varied(
            self.family,
            self.images[chosen],
            self.numbers,
            self.sampling,
            level=self.settings.level(step, steps),
            streams=[f"{seed}/{step}/{index}" for index in range(len(chosen))],
        )
        return self.gathered(new, f"varying the images of iteration {step + 1}")

    def gathered(self, batches: Iterable[np.ndarray], what: str) -> np.ndarray:
        """All images of some batches, with a line for each tenth: how many there are is public."""
        done, made = by_tenths(lambda line: self.progress(message=line), what), []
        for batch in batches:
            made.append(batch)
            done(sum(map(len, made)) / self.settings.samples)
        return np.concatenate(made)

    def report(self, step: int, steps: int, seconds: float) -> None:
        """One line of progress; it holds public numbers only."""
        self.progress(
            step=step,
            steps=steps,
            epsilon=self.account.epsilon(),
            budget=self.plan.budget.epsilon,
            seconds=seconds,
        )

    def save(self) -> None:
        """Writes what a resume needs: released quantities, counters, the ledger's head."""
        checkpoint.save_atomic(self.state(), self.folder.checkpoint)

    def state(self) -> dict[str, Any]:
        """Images, votes that are released and not used yet, counters, the ledger's head."""
        assert self.images is not None
        return {
            "plan": self.plan.fingerprint,
            "head": self.account.newest,
            "step": self.step,
            "complete": self.complete,
            "images": torch.from_numpy(self.images),
            "released": None if self.released is None else torch.from_numpy(self.released),
        }

    def resume(self) -> None:
        """Continues from the checkpoint, if there is one. Raises `RunFolderError` for one of another plan."""
        state = checkpoint.load(self.folder.checkpoint)
        if state is None:
            return
        checkpoint.require_plan(state, self.plan.fingerprint, self.folder.private)
        self.images = state["images"].numpy()
        self.released = None if state["released"] is None else state["released"].numpy()
        self.step, self.complete = int(state["step"]), bool(state["complete"])
        self.progress(message=f"resuming at step {self.step}")
