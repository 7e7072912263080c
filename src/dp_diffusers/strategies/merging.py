"""A network with its adapter folded into plain weights, for software that knows no peft.

Guarantees that the merged copy computes what the adapted network computes, up to rounding, that it has the
very parameters of the base's class and no class of peft's, and that the adapted network stays as it was. May
import torch and peft.
"""

from __future__ import annotations

import copy

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from dp_diffusers.errors import ModelError


def merged(network: nn.Module) -> nn.Module:
    """A frozen copy of the network, its low-rank updates added to the weights and its whole layers put in.

    Raises `ModelError` where the adapter has a bias and the base layer none (it would have no place in the
    base's class), or where a merged weight is not finite.
    """
    plain = copy.deepcopy(network)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            plain.set_submodule(name, _folded(name, layer))
        elif isinstance(layer, ModulesToSaveWrapper):
            plain.set_submodule(name, layer.modules_to_save[layer.active_adapters[0]])
    if hasattr(plain, "peft_config"):
        del plain.peft_config
    return plain.requires_grad_(False)


def _folded(name: str, layer: BaseTunerLayer) -> nn.Module:
    try:
        layer.merge(safe_merge=True)
    except RuntimeError as error:
        raise ModelError(
            f"the adapter of {name} has a bias, and the layer has none to add it to",
            hint="load the adapter with peft, or train without bias in strategy.also",
        ) from error
    except ValueError as error:
        raise ModelError(f"the merged weight of {name} is not finite") from error
    base: nn.Module = layer.get_base_layer()
    return base
