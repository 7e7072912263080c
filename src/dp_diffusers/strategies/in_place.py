"""Training a network's own tensors, with peft's adapter file as the way out.

Guarantee: exactly the named tensors are trainable, and exactly they are in the file. May import torch and
peft. Stock peft copies every tensor of an adapter file that the network has a name for; a configuration
without target layers (`DUMMY_TARGET_MODULES`) adds nothing else, so the file is as small as what was trained
and any parameter can be in it, those of containers and of the network itself too. Why not `modules_to_save`:
see the note on adapters in the design pages.
"""

from __future__ import annotations

from collections.abc import Iterable

from peft import LoraConfig, inject_adapter_in_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn

from dp_diffusers.errors import GuaranteeError

ADAPTER = "default"


def train(network: nn.Module, names: Iterable[str]) -> LoraConfig:
    """Makes the named parameters the trainable ones and returns the configuration to save them with."""
    wanted = frozenset(names)
    config = LoraConfig(target_modules=DUMMY_TARGET_MODULES)
    inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in wanted)
    if set(tensors(network)) != wanted:
        raise GuaranteeError(f"expected {len(wanted)} trainable tensors, got {len(tensors(network))}")
    return config


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """The trainable tensors that are the network's own, by name; none where peft's layers are trained."""
    if not is_trained(network):
        return {}
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def is_trained(network: nn.Module) -> bool:
    """Whether an adapter of this kind is in the network."""
    configs = getattr(network, "peft_config", None) or {}
    return any(config.target_modules == DUMMY_TARGET_MODULES for config in dict(configs).values())
