"""Which layers an adapter goes on: words for groups of layers, or the names themselves.

Guarantee: every name returned is a layer that peft can adapt and that some output depends on, and an empty
match is refused. May import torch. `attention` is what the paper adapts (query, key, value and output
projections, those of the text in a joint block and fused ones too); `convolution` adds what carries style in
a U-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import nn

from dp_diffusers.errors import ParameterError, nearest

ATTENTION: Final = frozenset(
    (
        *("to_q", "to_k", "to_v", "to_out", "to_out.0", "to_kv", "to_qkv", "to_qkv_mlp_proj", "qkv"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_added_kv", "to_added_qkv"),
    )
)
"""Endings of diffusers' names for the projections of an attention, plain, joint and fused."""


def is_attention(name: str, layer: nn.Module) -> bool:
    """Whether the layer is a linear projection of an attention."""
    parts = name.split(".")
    return isinstance(layer, nn.Linear) and (parts[-1] in ATTENTION or ".".join(parts[-2:]) in ATTENTION)


GROUPS: Final[dict[str, Callable[[str, nn.Module], bool]]] = {
    "attention": is_attention,
    "linear": lambda name, layer: isinstance(layer, nn.Linear),
    "convolution": lambda name, layer: isinstance(layer, nn.Conv2d),
    "all": lambda name, layer: isinstance(layer, nn.Linear | nn.Conv2d),
}


def layers(network: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Names of the layers that `targets` means: words of `GROUPS` and suffixes of layer names, joined.

    Raises `ParameterError` naming the word that matches nothing, with the nearest known one.
    """
    words = [targets] if isinstance(targets, str) else list(targets)
    useless = discarded(network)
    found: dict[str, None] = {}
    for word in words:
        matched = [
            name
            for name, layer in network.named_modules()
            if name not in useless and _matches(word, name, layer)
        ]
        if not matched:
            raise _nothing_matches(network, word)
        found.update(dict.fromkeys(matched))
    return list(found)


def discarded(network: nn.Module) -> frozenset[str]:
    """Layers that no output depends on: queries of the text in a joint block that drops its text after them.

    The last block of an SD3-class transformer is such a block (diffusers' `context_pre_only`); a gradient
    never reaches these layers, and the dry run would refuse to train them.
    """
    queries = ("add_q_proj", "norm_added_q")
    return frozenset(
        f"{name}.{query}" if name else query
        for name, layer in network.named_modules()
        if getattr(layer, "context_pre_only", None) is True
        for query in queries
        if hasattr(layer, query)
    )


def _matches(word: str, name: str, layer: nn.Module) -> bool:
    if word in GROUPS:
        return GROUPS[word](name, layer)
    return isinstance(layer, nn.Linear | nn.Conv2d) and (name == word or name.endswith("." + word))


def _nothing_matches(network: nn.Module, word: str) -> ParameterError:
    suffixes = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules() if name}
    close = nearest(word, [*GROUPS, *suffixes])
    hint = f"did you mean {close!r}?" if close else f"use one of {', '.join(GROUPS)}, or names of layers"
    return ParameterError(f"strategy target {word!r} matches no layer of the model", hint=hint)
