"""The gradient without clip and noise, behind the interface of the closed box: what privacy costs.

Guarantee: says that it is NOT PRIVATE. May import torch and the engine's parts. Source: plain SGD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dp_diffusers.engine.dry_run import Losses, rehearse
from dp_diffusers.engine.passes import check_pass, set_grads, trainable_of
from dp_diffusers.engine.private_gradient import Receipt
from dp_diffusers.engine.together import ONE_PROCESS, Together
from dp_diffusers.engine.unit_grads import ReferenceUnitGradients
from dp_diffusers.errors import positive


class PlainGradient:
    """The same interface without clipping and noise, by ordinary autograd: NOT PRIVATE, for ceilings."""

    not_private = True

    def __init__(self, parameters: nn.Module | Iterable[nn.Parameter], *, expected_units: float) -> None:
        positive(expected_units=expected_units)
        self._parameters = trainable_of(parameters)
        self._expected_units = expected_units
        self._totals = self._zeros()
        self._together: Together = ONE_PROCESS

    def join(self, together: Together) -> None:
        """Makes this box one of several, of a training in several processes."""
        self._together = together

    def discard(self, row_losses: Tensor) -> None:
        """Does the work of a pass for rows `[R]` that belong to nobody."""
        torch.autograd.grad(row_losses.sum(), self._parameters, allow_unused=True)

    def gather(self) -> None:
        """Ends the passes of a step: the first of several processes gets the sums of all."""
        self._together.sum_to_first(self._totals)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of what `release` returns."""
        return list(self._parameters)

    def rehearse(self, losses: Losses, *, rows: int = 4) -> None:
        """What the closed box does, so that a loop of one's own can be tried without noise."""
        rehearse(ReferenceUnitGradients(self._parameters), losses, rows=rows)

    def accumulate(
        self, row_losses: Tensor, owner: Tensor, weight: Tensor, *, complete: bool = False, filling: int = 0
    ) -> None:
        """Adds the gradient of `sum(weight * row_losses)`; owners play no role; what fills up weighs 0."""
        check_pass(row_losses, owner, weight)
        if len(row_losses) == 0:
            return
        objective = (weight.detach().to(row_losses) * row_losses).sum()
        gradients = torch.autograd.grad(objective, self._parameters, allow_unused=True)
        for total, gradient in zip(self._totals, gradients):
            if gradient is not None:
                total += gradient

    def release(self, step: int, receipt: Receipt | None = None) -> list[Tensor]:
        """The sums (float32, parameter order); each `p.grad` becomes its sum / expected_units."""
        del step, receipt
        released = [total.to(torch.float32) for total in self._totals]
        self._totals = self._zeros()
        self._together.copy_from_first(released)
        set_grads(self._parameters, released, self._expected_units)
        return released

    def finish(self) -> None:
        """Nothing is left open."""

    def start_over(self) -> None:
        """Throws away what was accumulated since the last release."""
        for total in self._totals:
            total.zero_()

    def forget(self) -> None:
        """Nothing is left behind."""

    @property
    def mean_noise_std(self) -> float:
        """0: there is no noise."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Nothing: no state outlives a step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in self._parameters]
