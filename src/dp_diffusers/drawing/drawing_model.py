"""The model that draws: a trained model with its adapter in plain weights, made for speed alone.

Guarantees: the trained model is left as it was; in float32 the images are the same up to the last bits of the
arithmetic; an update is never added to weights of half precision, which would lose part of it. May import
torch, peft, the strategies and the families. Folding the adapter is peft's own merge.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.text import TextFamily
from dp_diffusers.errors import ModelError
from dp_diffusers.runtime.compiled_parts import require_compiler
from dp_diffusers.strategies.merging import folded_layer

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def drawing_model(family: Family, *, dtype: str = "float32", compiled: bool = False) -> Family:
    """A family of the same model for `sample` alone; what need not change is shared with `family`.

    dtype: `float32` leaves every number type as it is; `bfloat16` is that of network and autoencoder, while
    the sampler's own arithmetic stays float32. compiled: by `torch.compile`, for one shape of batches. Raises
    `ParameterError` where no compiler is there.
    """
    kind = DTYPES[dtype]
    if compiled:
        require_compiler(_device(family.network))
    network, parts = _folded_copy(family.network), family.base.parts
    if kind is not torch.float32:
        network = _cast_copy(network, kind)
        parts = {name: _cast_part(name, part, kind) for name, part in parts.items()}
    network.eval()
    _settle_dtype(network)
    if compiled:
        network.compile(dynamic=False)
    made = copy.copy(family)
    made.base = replace(family.base, network=network, parts=parts)
    if isinstance(made, TextFamily):
        made.place_prompts()
    return made


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _settle_dtype(network: nn.Module) -> None:
    """Answers for the number type at once: diffusers looks through all modules for it, in every step."""
    kind, known = type(network), getattr(network, "dtype", None)
    if known is not None:
        network.__class__ = type(kind.__name__, (kind,), {"dtype": property(lambda _: known)})


def _folded_copy(network: nn.Module) -> nn.Module:
    """The network with plain layers in the place of adapted ones; all other tensors are the original's."""
    made = copy.deepcopy(network, {id(value): value for value in _tensors(network)})
    left = 0
    for name, layer in _adapted(network):
        try:
            made.set_submodule(name, folded_layer(name, copy.deepcopy(layer)))
        except ModelError:  # such a layer draws as it was trained, beside its adapter
            left += 1
    if hasattr(made, "peft_config") and not left:
        del made.peft_config
    return made


def _adapted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers of peft's by name, but for those whose weights are too coarse for an update."""
    for name, layer in network.named_modules():
        adds = isinstance(layer, BaseTunerLayer) and _is_fine(layer.get_base_layer())
        if adds or isinstance(layer, ModulesToSaveWrapper):
            yield name, layer


def _is_fine(layer: nn.Module) -> bool:
    return all(value.dtype in (torch.float32, torch.float64) for value in layer.parameters())


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _cast_part(name: str, part: Any, kind: torch.dtype) -> Any:
    """Autoencoders draw; text encoders have done their work."""
    is_model = isinstance(part, nn.Module) and not name.startswith("text_encoder")
    return _cast_copy(part, kind) if is_model else part


def _cast_copy(module: nn.Module, kind: torch.dtype) -> nn.Module:
    """A copy in the number type, but for what the module's class keeps in float32."""
    kept = frozenset(getattr(module, "_keep_in_fp32_modules", None) or ())
    cast: dict[int, Any] = {}
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point() and not kept.intersection(name.split(".")):
            made = value.detach().to(kind)
            cast[id(value)] = nn.Parameter(made, False) if isinstance(value, nn.Parameter) else made
    return copy.deepcopy(module, cast)
