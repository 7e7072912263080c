"""This package's step: the closed box of a real plan, paid for in a real ledger.

Guarantees that nothing of a private step is left out: secret draws by unit, clip, receipt on disk, noise. May
import torch and the engine, never the accountant.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from dp_diffusers.benching.engines import CLIP_NORM, Engine
from dp_diffusers.benching.payment import Payment
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.precision import exact_convolutions
from dp_diffusers.engine.unit_grads import HookedUnitGradients


class Ours(Engine):
    """`accumulate`, `charge`, `release`, as the training loop does."""

    def __init__(self, work: Work) -> None:
        self._work, self._optimizer = work, work.optimizer()

    @cached_property
    def _payment(self) -> Payment:
        return Payment(self._work.units, CLIP_NORM)

    @cached_property
    def _box(self) -> Any:
        return self._payment.plan.private_gradient(self._work.family.network, self._payment.keys)

    def step(self, number: int) -> None:
        """One step of the training loop; the first one makes the plan and the ledger."""
        box, work = self._box, self._work
        with exact_convolutions():
            box.accumulate(work.losses(self.draws(number)), work.owner, work.weight, complete=True)
        box.release(number, self._payment.charge(number))
        self._optimizer.step()

    def draws(self, number: int) -> Draws:
        """The rows' draws from the secret stream, each a function of key, step and unit."""
        position, slots = (
            np.repeat(np.arange(self._work.units), self._work.noise_draws),
            self._work.noise_draws,
        )
        return self._work.family.objective.draw(
            self._payment.keys,
            number,
            units=np.arange(self._work.units),
            position=position,
            slot=np.arange(len(position)) % slots,
            slots=slots,
            shape=self._work.family.shape,
        ).to(self._work.device)

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """By the parts that the box is made of: nobody outside ever sees the box's own sum."""
        network, owners = self._work.family.network, RowOwners.of(self._work.owner)
        source = HookedUnitGradients(network)
        try:
            losses = self._work.losses(draws)
            gradients = source.compute(losses, self._work.weight, owners)
        finally:
            source.close()
        total = ClippedSum(source.parameters, clip_norm, "flat")
        total.add(owners.ids, gradients, owners.all_rows(losses.detach().isfinite()))
        return total.take()[0]
