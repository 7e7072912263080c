"""An exponential moving average of parameters, updated once per logical step.

Guarantee: the average is a function of released parameters only. May import torch. The bias of the zero start
is avoided by starting at the parameters and ramping the decay (Karras et al. 2024 discuss the choice).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class Average:
    """Moving average with final decay `decay`; 0 keeps the last value."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.steps = 0
        self.shadow = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9.0)) if self.decay else 0.0
        for mean, parameter in zip(self.shadow, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), 1.0 - decay)

    @torch.no_grad()
    def copy_to(self) -> None:
        """Puts the average into the parameters."""
        for mean, parameter in zip(self.shadow, self.parameters, strict=True):
            parameter.copy_(mean)

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint needs."""
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continues from a checkpoint."""
        self.steps = int(state["steps"])  # type: ignore[call-overload]
        for mean, saved in zip(self.shadow, state["shadow"], strict=True):  # type: ignore[call-overload]
            mean.copy_(saved)
