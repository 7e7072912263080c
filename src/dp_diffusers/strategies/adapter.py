"""An adapter of peft's in a network: whether there is one, how it is written, how it is read.

Guarantees that what is written has peft's own layout and that reading it into the same base gives the same
weights, bit for bit. May import torch and peft. Source: peft's `PeftModel.save_pretrained`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from dp_diffusers.errors import ModelError

ADAPTER = "default"


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
