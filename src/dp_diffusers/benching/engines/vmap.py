"""`torch.func`: the gradient of one unit, mapped over all of them.

Guarantees the gradients of a batch of one where torch can follow the model. May import torch. Source: the
per-sample gradients of torch.func.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_diffusers.benching.engines import CLIP_NORM, NOISE_MULTIPLIER, Engine
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws


class _UnitLoss(nn.Module):
    """The mean loss of one unit's rows, as a module, so that its parameters can be given from outside."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.network, self._work = work.family.network, work

    def forward(self, clean: Tensor, label: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """clean `[c, h, w]`, label `[]`, timesteps `[K]`, noise `[K, c, h, w]`."""
        draws = Draws(
            timesteps=timesteps, noise=noise, drop_label=torch.zeros_like(timesteps, dtype=torch.bool)
        )
        count = len(timesteps)
        rows = clean.expand(count, *clean.shape), label.expand(count)
        return self._work.losses_of(*rows, draws).mean()


class Vmap(Engine):
    """Gradients of all units at once, whole, then clip and sum."""

    def __init__(self, work: Work) -> None:
        self._work, self._optimizer = work, work.optimizer()
        self._loss = _UnitLoss(work)
        named = dict(self._loss.named_parameters())
        self._trained = {name: value.detach() for name, value in named.items() if value.requires_grad}
        self._frozen = {name: value.detach() for name, value in named.items() if not value.requires_grad}
        self._gradients = torch.func.vmap(
            torch.func.grad(self._of_unit), in_dims=(None, 0, 0, 0, 0), randomness="different"
        )

    def step(self, number: int) -> None:
        """Gradients of units, clip, sum, noise, Adam."""
        del number
        sums = self.clipped_sum(self._work.draws(), CLIP_NORM)
        for parameter, total in zip(self._work.parameters, sums, strict=True):
            noise = NOISE_MULTIPLIER * CLIP_NORM * torch.randn_like(total)
            parameter.grad = (total + noise) / self._work.units
        self._optimizer.step()

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """Factors from whole norms, then one contraction a tensor."""
        split = (self._work.units, self._work.noise_draws)
        timesteps, noise = (t.view(*split, *t.shape[1:]) for t in (draws.timesteps, draws.noise))
        with torch.no_grad():
            found = self._gradients(self._trained, self._work.clean, self._work.labels, timesteps, noise)
            rows = list(found.values())
            norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows]).norm(dim=0)
            factors = (clip_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
            return [torch.tensordot(factors, row, 1) for row in rows]

    def _of_unit(self, trained: dict[str, Tensor], *rows: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(self._loss, {**self._frozen, **trained}, rows)
        return found
