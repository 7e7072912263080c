"""The optimiser's side of a private step: everything here is post-processing of released gradients.

Guarantee: no learning rate, schedule or average can change epsilon. May import torch. Adam is that of Kingma
& Ba (2015) without weight decay; adamw adds decay of 0.01; adam_bc takes the noise out of the second moment
(Tang et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from dp_diffusers.errors import unknown_name
from dp_diffusers.loop.adam_bc import AdamBC

OPTIMIZERS = ("adam", "adam_bc", "adamw", "sgd")
# Released gradients have the scale of the clip norm over the expected units, far below Adam's usual 1e-8.
EPS = 1e-12


def optimizer_of(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, *, noise_std: float = 0.0
) -> torch.optim.Optimizer:
    """`sgd` (θ −= learning_rate · released / expected_units), `adam`, `adamw` or `adam_bc`.

    noise_std: of the noise in each entry of a gradient, for `adam_bc`, which refuses 0 by `ParameterError`.
    """
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate)
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, eps=EPS)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, eps=EPS)
    if name == "adam_bc":
        return AdamBC(parameters, learning_rate, noise_std=noise_std)
    raise unknown_name("optimizer", name, OPTIMIZERS)


def rate_factor(step: int, steps: int, *, schedule: str, warmup: int) -> float:
    """Share of the learning rate at a step: a linear warm-up, then constant, linear or cosine to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0
