"""An adapter of peft's in a network: whether there is one, how it is written, how it is read.

Guarantees that what is written has peft's own layout, holds what was trained, and gives the same weights, bit
for bit, when peft or `load_adapter` reads it into the same base. May import torch and peft. Source: peft's
`PeftModel.save_pretrained`.
"""

from __future__ import annotations

import stat
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies import in_place

ADAPTER = in_place.ADAPTER
_PREFIX = "base_model.model."


def has_adapter(network: nn.Module) -> bool:
    """Whether any adapter of peft's is in the network, one that trains the network's own tensors included."""
    parts = (BaseTunerLayer, ModulesToSaveWrapper)
    return in_place.is_trained(network) or any(isinstance(layer, parts) for layer in network.modules())


def require_none(network: nn.Module) -> None:
    """Raises `ModelError` where there is an adapter already."""
    if has_adapter(network):
        raise ModelError(
            "the model has an adapter already",
            hint="load the pipeline again: a training leaves its adapter in the model that it was given",
        )


def add(network: nn.Module, config: LoraConfig) -> None:
    """Puts the layers of an adapter into the network."""
    with warnings.catch_warnings():
        # an adapter with a bias beside a layer without one cannot be merged, and `merged` refuses it by name
        warnings.filterwarnings("ignore", message=".*lora_bias=True")
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)


def save_adapter(network: nn.Module, config: LoraConfig, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, peft's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors_of_file(network), folder / "adapter_model.safetensors")
    config.save_pretrained(folder)
    # safetensors lets nobody else read what it writes, and this is what may be read, as the other file is
    mode = stat.S_IMODE((folder / "adapter_config.json").stat().st_mode)
    (folder / "adapter_model.safetensors").chmod(mode)


def is_in(network: nn.Module, folder: Path) -> bool:
    """Whether the adapter in the network is the saved one, number by number."""
    saved, own = load_file(folder / "adapter_model.safetensors"), _tensors_of_file(network)
    return saved.keys() == own.keys() and all(torch.equal(saved[name], own[name]) for name in saved)


def _tensors_of_file(network: nn.Module) -> dict[str, Tensor]:
    state = {**adapter_state(network), **in_place.tensors(network)}
    return {_PREFIX + name: value.detach().contiguous().cpu() for name, value in state.items()}


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """What peft adds to the network (low-rank factors, layers kept whole), by its names in a file."""
    with warnings.catch_warnings():
        # peft takes the bias of an adapter, a vector, for a shard of a matrix that was not gathered
        warnings.filterwarnings("ignore", message=".*invalid shape")
        return dict(get_peft_model_state_dict(network, adapter_name=ADAPTER))


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
    add(network, config)
    plain = {name.removeprefix(_PREFIX): value for name, value in state.items()}
    for name, parameter in network.named_parameters():
        if name in plain:
            parameter.requires_grad_(True)  # trained in place: what is saved again is what was saved
    _fill(network, plain, folder)


def _fill(network: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    try:
        outcome = set_peft_model_state_dict(network, state, adapter_name=ADAPTER)
    except (KeyError, RuntimeError) as error:  # a layer that is missing, a shape that differs
        raise ModelError(f"{folder} does not fit the base model") from error
    if outcome.unexpected_keys:
        raise ModelError(
            f"{folder} does not fit the base model: {outcome.unexpected_keys[0]} has no place in it"
        )
