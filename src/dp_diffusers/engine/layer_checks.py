"""Refuses, before anything is spent, layers that mix units and layers whose parameters no rule can reach.

Guarantees: every problem of a model is named at once, with the fix. May import torch and the errors. Source:
Opacus' validators for the idea of collecting all problems first.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dp_diffusers.engine.layer_rules import unread
from dp_diffusers.errors import ModelError

_CALLED_WITHOUT_HOOKS = (
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.EmbeddingBag,
    ParametrizationList,
)
_COMPUTE_A_WEIGHT = (WeightNorm, SpectralNorm, BasePruningMethod)  # before each call, from other tensors


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, each once, in the order of `module.parameters()`."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def owns_trainable(module: nn.Module) -> bool:
    """Whether the module itself (not a child) holds a trainable parameter."""
    return any(parameter is not None and parameter.requires_grad for parameter in module._parameters.values())


def check_layers(module: nn.Module) -> None:
    """Raises one `ModelError` that lists every layer that mixes units of a batch or that has no gradient
    rule."""
    found = [
        (name or "the model", problem)
        for name, layer in module.named_modules()
        if (problem := _problem(layer))
    ]
    if found:
        raise ModelError(
            "\n".join(f"layer {name}: {problem}" for name, (problem, _) in found),
            hint="; ".join(dict.fromkeys(hint for _, (_, hint) in found)),
        )


def _problem(layer: nn.Module) -> tuple[str, str] | None:
    kind = type(layer).__name__
    if isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats):
        return f"{kind} mixes the units of a batch", "replace it with nn.GroupNorm"
    return _unreachable(layer, kind)


def _unreachable(layer: nn.Module, kind: str) -> tuple[str, str] | None:
    if isinstance(layer, _CALLED_WITHOUT_HOOKS) and any(p.requires_grad for p in layer.parameters()):
        return f"{kind} has no gradient rule", "freeze it, or build it from nn.Linear layers"
    if not owns_trainable(layer):
        return None
    if isinstance(layer, nn.Embedding) and (
        layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse
    ):
        return (
            f"{kind} with max_norm, scale_grad_by_freq or sparse has no gradient rule",
            "use a plain nn.Embedding",
        )
    if type(layer).forward is nn.Module.forward:
        return (
            f"{kind} holds trainable parameters but is never called",
            "freeze them, or let the caller own them",
        )
    return _computed(layer, kind)


def _computed(layer: nn.Module, kind: str) -> tuple[str, str] | None:
    """Trainable tensors that are not what the layer computes with."""
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, _COMPUTE_A_WEIGHT):
            return (
                f"{kind} with {type(hook).__name__} has no gradient rule",
                "make its weight a plain one again (torch.nn.utils.remove_weight_norm and the like)",
            )
    if names := unread(layer):
        return f"the rule of {kind} does not read {', '.join(names)}", "freeze them, or let a module own them"
    return None
