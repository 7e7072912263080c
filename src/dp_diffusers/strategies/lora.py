"""Low-rank adapters (Hu et al. 2022) through peft, as in DP-LoRA (2024).

Guarantees:
- only the adapter (and the named extras) is trainable, and a new adapter leaves the model's function
  unchanged;
- what is saved has peft's own layout and loads with stock peft.
May import torch and peft. Freezing A (Sun et al. 2024) makes the adapter linear in what is trained, so the
noise of B is not multiplied by the noise of A.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from dp_diffusers.errors import GuaranteeError, ModelError, ParameterError, positive, unknown_name
from dp_diffusers.strategies import targets as target_names
from dp_diffusers.strategies import tensors
from dp_diffusers.strategies.adapter import (
    ADAPTER,
    add,
    has_adapter,
    load_adapter,
    require_none,
    save_adapter,
)

__all__ = ["ADAPTER", "ALSO", "Lora", "has_adapter", "load_adapter", "save_adapter"]

ALSO = ("bias", "embedding", "norm")
STARTS = ("gaussian", "orthogonal", "olora", "pissa", "mica")
"""Of a ready configuration: peft's ways to begin from random numbers or the network's own weights."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Rank-`rank` adapters on `targets`.

    Args:
        rank: of the update.
        alpha: the update is scaled by alpha / rank; None means alpha = rank, a scale of one.
        targets: `attention`, `linear`, `convolution`, `all`, or names of layers.
        freeze_a: keep A at a random orthonormal start and train B alone.
        also: further tensors to train: `embedding` (class embeddings) and `norm` (normalisation layers), both
            kept whole in the adapter, and `bias` (of the adapters).
        config: a ready `peft.LoraConfig`, used as it is. Raises `ParameterError` for a start of the factors
            that is computed from data, for `bias`, which trains tensors of the network itself, for
            `trainable_token_indices`, which trains rows of one, and for `target_parameters`, which adapts
            tensors beside the layers that use them.
    """

    rank: int = 8
    alpha: float | None = None
    targets: str | Sequence[str] = "attention"
    freeze_a: bool = False
    also: Sequence[str] = ()
    config: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        positive(rank=self.rank)
        if self.alpha is not None:
            positive(alpha=self.alpha)
        require_known(self.also)
        if self.config is not None:
            _require_usable(self.config)

    @classmethod
    def from_config(cls, config: Any) -> Lora:
        """A strategy from a bare `peft.LoraConfig`."""
        if not isinstance(config, LoraConfig):
            raise ParameterError(f"expected a strategy or a peft.LoraConfig, got {type(config).__name__}")
        return cls(rank=config.r, config=config)

    def apply(self, network: nn.Module, *, seed: int = 0) -> LoraConfig:
        """Freezes the network, adds the adapter, and returns peft's configuration of it.

        `seed` is the experiment's public seed: it decides the start of A and nothing private. Raises
        `ModelError` for a network with an adapter, without what `also` names, or with a layer that peft
        cannot adapt, `ParameterError` for targets that match nothing, or a table of embeddings.
        """
        require_none(network)
        # peft rewrites a configuration while it adapts a model; the caller's stays as it was given
        config = copy.deepcopy(self.config) if self.config else self._config(network)
        layers, whole = (None, None) if self.config else (config.target_modules, config.modules_to_save or ())
        network.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _add(network, config)
            if self.freeze_a:
                _orthonormal_a(network)
        _require_no_tables(network)
        _require_exactly(network, BaseTunerLayer, layers)
        _require_exactly(network, ModulesToSaveWrapper, whole)
        _set_trainable(network, freeze_a=self.freeze_a)
        return config

    def _config(self, network: nn.Module) -> LoraConfig:
        extras = [name for word in self.also if word != "bias" for name in tensors.owners(network, word)]
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or self.rank,
            target_modules=target_names.layers(network, self.targets),
            lora_bias="bias" in self.also,
            modules_to_save=extras or None,
        )


def require_known(also: Sequence[str]) -> None:
    """Raises `ParameterError` for an entry of `also` that is not one of `ALSO`."""
    for word in also:
        if word not in ALSO:
            raise unknown_name("strategy.also entry", word, ALSO)


def _require_usable(config: LoraConfig) -> None:
    """Raises `ParameterError` for what a ready configuration asks for and would not get here."""
    if config.bias != "none":
        raise ParameterError(
            f"LoraConfig(bias={config.bias!r}) is not supported: biases of the network are not trained",
            hint='use Lora(also=["bias"]) or lora_bias=True for biases of the adapter, or strategy bias',
        )
    if getattr(config, "trainable_token_indices", None) is not None:
        raise ParameterError(
            f"LoraConfig(trainable_token_indices={config.trainable_token_indices!r}) is not supported: "
            "single rows of an embedding are not trained",
            hint='use Lora(also=["embedding"]), which trains the whole table of classes',
        )
    if getattr(config, "target_parameters", None):
        raise ParameterError(
            f"LoraConfig(target_parameters={config.target_parameters!r}) is not supported: layers are "
            "adapted, not single tensors",
            hint='name the layers that hold them: target_modules=["to_q"] in the place of ["to_q.weight"]',
        )
    if config.target_modules is None:
        raise ParameterError(
            "LoraConfig names no target_modules, and peft knows none for a diffusion model",
            hint='target_modules=["to_q", "to_k", "to_v", "to_out.0"]',
        )
    start = config.init_lora_weights
    if not isinstance(start, bool) and str(start).lower() not in STARTS:
        raise ParameterError(
            f"LoraConfig(init_lora_weights={start!r}) is not supported: an adapter starts from "
            "nothing but the network and a seed, so that it can be read again",
            hint=f"True, or one of {', '.join(STARTS)}",
        )


def _add(network: nn.Module, config: LoraConfig) -> None:
    """`add`, with an error of ours where peft has no adapter for a layer, as for some grouped ones."""
    try:
        add(network, config)
    except ValueError as error:
        raise ModelError(
            f"peft cannot adapt a layer: {error}",
            hint="give strategy.targets as a list of endings of layer names without it, or linear",
        ) from error


def _require_no_tables(network: nn.Module) -> None:
    """Raises `ParameterError` for a low-rank table: its factors are in no layer that has a gradient rule."""
    for name, layer in network.named_modules():
        if isinstance(layer, BaseTunerLayer) and isinstance(layer.get_base_layer(), nn.Embedding):
            raise ParameterError(
                f"layer {name} is a table of embeddings, which gets no low-rank adapter",
                hint=f'modules_to_save=["{name}"] trains the whole table, as Lora(also=["embedding"]) does',
            )


def _require_exactly(network: nn.Module, kind: type[nn.Module], wanted: Sequence[str] | None) -> None:
    """Raises `GuaranteeError` where peft, which goes by endings of names, changed other layers than wanted.

    wanted: None where the caller's own configuration decides.
    """
    found = {name for name, layer in network.named_modules() if isinstance(layer, kind)}
    if wanted is not None and found != set(wanted):
        other = ", ".join(sorted(found ^ set(wanted)))
        raise GuaranteeError(f"peft adapts other layers than the strategy names: {other}")


def _orthonormal_a(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if ".lora_A." in name:
            nn.init.orthogonal_(parameter)


def _set_trainable(network: nn.Module, *, freeze_a: bool) -> None:
    for name, parameter in network.named_parameters():
        adapter = ".lora_" in name or ".modules_to_save." in name
        parameter.requires_grad_(adapter and not (freeze_a and ".lora_A." in name))
