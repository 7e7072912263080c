"""A network with its adapter folded into plain weights, for software that knows no peft.

Guarantees that the merged network computes what the adapted network computes, up to rounding, and that it has
the very parameters of the base's class and no class of peft's. May import torch and peft.
"""

from __future__ import annotations

import copy

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from dp_diffusers.errors import ModelError


def merged(network: nn.Module) -> nn.Module:
    """As `fold`, of a copy: the adapted network stays as it was."""
    return fold(copy.deepcopy(network))


def fold(network: nn.Module) -> nn.Module:
    """The network itself, frozen: low-rank updates added to its weights, whole layers put in their places.

    Raises `ModelError` where the adapter has a bias and the base layer none (it would have no place in the
    base's class), or where a merged weight is not finite; the network is half folded then.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer | ModulesToSaveWrapper):
            network.set_submodule(name, folded_layer(name, layer))
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network.requires_grad_(False)


def folded_layer(name: str, layer: nn.Module) -> nn.Module:
    """The plain layer in the place of one of peft's, whose weights change. Raises `ModelError` as `fold`."""
    if isinstance(layer, ModulesToSaveWrapper):
        kept: nn.Module = layer.modules_to_save[layer.active_adapters[0]]
        return kept
    assert isinstance(layer, BaseTunerLayer)
    try:
        layer.merge(safe_merge=True)
    except NotImplementedError as error:  # a kind of RuntimeError
        raise ModelError(
            f"the adapter of {name} belongs to a convolution in groups, which peft cannot merge",
            hint="load the adapter with peft, or train without that layer",
        ) from error
    except RuntimeError as error:
        raise ModelError(
            f"the adapter of {name} has a bias, and the layer has none to add it to",
            hint="load the adapter with peft, or train without bias in strategy.also",
        ) from error
    except ValueError as error:
        raise ModelError(f"the merged weight of {name} is not finite") from error
    base: nn.Module = layer.get_base_layer()
    return base
