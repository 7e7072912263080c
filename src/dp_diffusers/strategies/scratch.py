"""Training from scratch: the base gives the architecture, none of its weights (DPDM, Dockhorn et al. 2023).

Guarantees that every trained parameter begins at a draw of the experiment's public seed, whatever the base
learnt, and that the caller's own random stream stays as it was. May import torch and peft. The start is what
the model's own class gives a new instance, so that it is the one that people train from.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies import in_place
from dp_diffusers.strategies.adapter import require_none
from dp_diffusers.strategies.subset import Subset


@dataclass(frozen=True, kw_only=True)
class Scratch(Subset):
    """Every parameter that an output depends on, from a random start."""

    words = ("all",)

    def apply(self, network: nn.Module, *, seed: int = 0) -> LoraConfig:
        """As `Subset.apply`, after every parameter was replaced by a new draw.

        `seed` is the experiment's public seed: it decides the start and nothing private. Raises `ModelError`
        also for a network that holds parameters and knows no way to draw them anew; it is then as before.
        """
        require_none(network)
        drawn = dict(_anew(network, seed).named_parameters())
        config = super().apply(network)
        with torch.no_grad():
            for name, tensor in in_place.tensors(network).items():
                tensor.copy_(drawn[name])
        return config


def _anew(network: nn.Module, seed: int) -> nn.Module:
    """The network with parameters drawn from `seed`, beside it.

    A diffusers model is built again from its configuration; any other is reset layer by layer, by
    `reset_parameters`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built_again(network) if hasattr(network, "from_config") else _reset(network)


def _built_again(network: Any) -> nn.Module:
    return type(network).from_config(network.config)  # type: ignore[no-any-return]


def _reset(network: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(network)
    for name, layer in fresh.named_modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        elif any(True for _ in layer.parameters(recurse=False)):
            raise ModelError(
                f"strategy scratch cannot draw {name or 'the model'} anew: {type(layer).__name__} has no "
                "reset_parameters",
                hint="give the layer one, or train it with strategy full",
            )
    return fresh
