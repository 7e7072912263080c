"""Adam whose second moment is that of the gradient alone: the known variance of the noise is taken off.

Guarantee: post-processing of released gradients and public numbers, so that epsilon is as it was. May import
torch. Source: DP-AdamBC, Tang, Shpilevskiy and Lécuyer 2024 (arXiv 2312.14334), whose floor is a number to
tune where this one is a share of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

from dp_diffusers.errors import positive

# The difference of two nearly equal averages is noisy, and must not become a huge step. At a tenth of the
# noise's variance an entry without any signal moves about three times as far as under plain Adam, no further.
FLOOR: Final = 0.1


class AdamBC(torch.optim.Optimizer):
    """theta -= lr * m / sqrt(max(v - noise variance, floor)), m and v Adam's bias-corrected moments.

    `noise_std` is the standard deviation of the noise in each entry of a gradient; where it changes from
    step to step (adaptive clipping), set it in the parameter group before each step: its square is averaged
    with the weights of v. Raises `ParameterError` unless it is above 0.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        noise_std: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        positive(hint="a run without privacy has no noise to correct for: take adam", noise_std=noise_std)
        super().__init__(parameters, {"lr": lr, "betas": betas, "noise_std": noise_std})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        found = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return found

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter] or self._started(parameter)
        first, second = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        state["noise"] += (1 - second) * (group["noise_std"] ** 2 - state["noise"])
        direction = state["mean"] / (1 - first ** state["step"])
        parameter.addcdiv_(direction, signal_square(state, second).sqrt(), value=-group["lr"])

    def _started(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        state["step"], state["noise"] = 0, 0.0
        state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def signal_square(state: dict[str, Any], second: float) -> Tensor:
    """The corrected second moment of each entry, never below a tenth of the noise's variance."""
    corrected = 1 - second ** state["step"]
    noise = state["noise"] / corrected
    signal: Tensor = (state["square"] / corrected - noise).clamp(min=FLOOR * noise)
    return signal
