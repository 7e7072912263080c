"""Batches of images that no privacy is owed, for gradients without clip and noise.

Guarantee: a batch and its draws are a function of (stream, seed, step) alone. May import torch and the
family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws

ENCODED_AT_ONCE: Final = 64


class Images(Protocol):
    """What a batch needs of images: how many there are, and some of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any, /) -> np.ndarray: ...


Losses = Callable[[Tensor, Tensor | None, Draws], Tensor]  # (clean, labels, draws) -> [R]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Images as the family takes them, `size` of them in a step.

    images: uint8 `[N, H, W, C]`, or what makes those that are asked for.
    labels: int64 `[N]`, in the numbering of the family. clean: what the network sees; None to encode in each
    step. stream: keeps these draws apart from others of the same seed.
    """

    family: Family
    images: Images
    labels: np.ndarray | None
    clean: Tensor | None
    size: int
    seed: int
    stream: int

    def gradients(
        self,
        parameters: list[nn.Parameter],
        losses: Losses,
        step: int,
        *,
        most_rows: int,
        forget: Callable[[], None] = lambda: None,
    ) -> list[Tensor | None]:
        """The gradient of the mean loss of the step's batch for each parameter; None where none arrives.

        forget: called after each pass of at most `most_rows` rows, to drop what it has left in hooks.
        """
        total: list[Tensor | None] = [None] * len(parameters)
        for clean, labels, draws in self.parts(step, most_rows):
            objective = losses(clean, labels, draws).sum() / self.size
            found = torch.autograd.grad(objective, parameters, allow_unused=True)
            total = [added(so_far, gradient) for so_far, gradient in zip(total, found, strict=True)]
            forget()
        return total

    def parts(self, step: int, most_rows: int) -> Iterator[tuple[Tensor, Tensor | None, Draws]]:
        """The batch of a step, at most `most_rows` rows at a time, on the device of the network."""
        rng = np.random.default_rng([self.stream, self.seed, step])
        device = next(self.family.network.parameters()).device
        chosen = rng.integers(0, len(self.images), self.size)
        draws = self._draws(rng)
        labels = None if self.labels is None else torch.from_numpy(self.labels[chosen])
        for start in range(0, self.size, most_rows):
            part = slice(start, start + most_rows)
            clean = self._encoded(chosen[part]).to(device)
            yield clean, None if labels is None else labels[part].to(device), _part(draws, part).to(device)

    def _encoded(self, chosen: np.ndarray) -> Tensor:
        return self.family.encode(self.images[chosen]) if self.clean is None else self.clean[chosen]

    def _draws(self, rng: np.random.Generator) -> Draws:
        """Timesteps are spread over the batch (stratified), as those of a unit are over its rows."""
        objective, count = self.family.objective, self.size
        levels = objective.levels((rng.permutation(count) + rng.random(count)) / count)
        return Draws(
            timesteps=torch.from_numpy(levels),
            noise=torch.from_numpy(rng.standard_normal((count, *self.family.shape), dtype=np.float32)),
            drop_label=torch.from_numpy(rng.random(count) < objective.label_dropout),
        )


def encoded_once(family: Family, images: Images) -> Tensor | None:
    """What the network sees of all images; None for a family that encodes anew in each step."""
    if not family.encodes_once:
        return None
    starts = range(0, len(images), ENCODED_AT_ONCE)
    with torch.no_grad():
        return torch.cat([family.encode(images[start : start + ENCODED_AT_ONCE]) for start in starts])


def added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Their sum, where None is nothing."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _part(draws: Draws, part: slice) -> Draws:
    return Draws(timesteps=draws.timesteps[part], noise=draws.noise[part], drop_label=draws.drop_label[part])
