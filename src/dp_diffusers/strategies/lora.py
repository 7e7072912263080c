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
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from dp_diffusers.errors import ModelError, ParameterError, positive, unknown_name
from dp_diffusers.strategies import targets as target_names

ADAPTER = "default"
ALSO = ("bias", "embedding", "norm")


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
        config: a ready `peft.LoraConfig`, used as it is.
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
        for word in self.also:
            if word not in ALSO:
                raise unknown_name("strategy.also entry", word, ALSO)

    @classmethod
    def from_config(cls, config: Any) -> Lora:
        """A strategy from a bare `peft.LoraConfig`."""
        if not isinstance(config, LoraConfig):
            raise ParameterError(f"expected a strategy or a peft.LoraConfig, got {type(config).__name__}")
        return cls(rank=config.r, config=config)

    def apply(self, network: nn.Module, *, seed: int = 0) -> LoraConfig:
        """Freezes the network, adds the adapter, and returns peft's configuration of it.

        `seed` is the experiment's public seed: it decides the start of A and nothing private.
        """
        if has_adapter(network):
            raise ModelError(
                "the model has an adapter already",
                hint="load the pipeline again; the same call then resumes",
            )
        # peft rewrites a configuration while it adapts a model; the caller's stays as it was given
        config = copy.deepcopy(self.config) if self.config else self._config(network)
        network.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, network, adapter_name=ADAPTER)
            if self.freeze_a:
                _orthonormal_a(network)
        _set_trainable(network, freeze_a=self.freeze_a)
        return config

    def _config(self, network: nn.Module) -> LoraConfig:
        extras = [name for word in self.also if word != "bias" for name in _whole_layers(network, word)]
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or self.rank,
            target_modules=target_names.layers(network, self.targets),
            lora_bias="bias" in self.also,
            modules_to_save=extras or None,
        )


def _whole_layers(network: nn.Module, word: str) -> list[str]:
    kinds = (nn.Embedding,) if word == "embedding" else (nn.GroupNorm, nn.LayerNorm)
    found = [name for name, layer in network.named_modules() if isinstance(layer, kinds)]
    if not found:
        raise ModelError(f"strategy.also names {word!r}, but the model has no such layer")
    return found


def has_adapter(network: nn.Module) -> bool:
    """Whether any adapter of peft's is in the network."""
    return any(isinstance(layer, BaseTunerLayer) for layer in network.modules())


def save_adapter(network: nn.Module, config: LoraConfig, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, peft's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # peft takes the bias of an adapter, a vector, for a shard of a matrix that was not gathered
        warnings.filterwarnings("ignore", message=".*invalid shape")
        state = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    tensors = {f"base_model.model.{name}": value.contiguous().cpu() for name, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config.save_pretrained(folder)


def load_adapter(network: nn.Module, folder: Path) -> None:
    """Adds a saved adapter to a network. Raises `ModelError` where files are missing or do not fit."""
    try:
        config = LoraConfig.from_pretrained(folder)
        state = load_file(folder / "adapter_model.safetensors")
    except Exception as error:
        raise ModelError(
            f"{folder} does not hold a peft adapter that can be read",
            hint="restore it, or make the release again",
        ) from error
    inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    plain = {name.removeprefix("base_model.model."): value for name, value in state.items()}
    outcome = set_peft_model_state_dict(network, plain, adapter_name=ADAPTER)
    if outcome.unexpected_keys:
        raise ModelError(
            f"{folder} does not fit the base model: {outcome.unexpected_keys[0]} has no place in it"
        )


def _orthonormal_a(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if ".lora_A." in name:
            nn.init.orthogonal_(parameter)


def _set_trainable(network: nn.Module, *, freeze_a: bool) -> None:
    for name, parameter in network.named_parameters():
        adapter = ".lora_" in name or ".modules_to_save." in name
        parameter.requires_grad_(adapter and not (freeze_a and ".lora_A." in name))
