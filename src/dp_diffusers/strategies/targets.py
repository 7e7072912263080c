"""Which layers an adapter goes on: words for groups of layers, or the names themselves.

Guarantee: every name returned is a layer that peft can adapt, and an empty match is refused. May import
torch. `attention` is what the paper adapts (query, key, value and output projections); `convolution` adds
what carries style in a U-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from dp_diffusers.errors import ParameterError, nearest

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

GROUPS: dict[str, Callable[[str, nn.Module], bool]] = {
    "attention": lambda name, layer: isinstance(layer, nn.Linear) and name.endswith(ATTENTION),
    "linear": lambda name, layer: isinstance(layer, nn.Linear),
    "convolution": lambda name, layer: isinstance(layer, nn.Conv2d),
    "all": lambda name, layer: isinstance(layer, nn.Linear | nn.Conv2d),
}


def layers(network: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Names of the layers that `targets` means: words of `GROUPS` and suffixes of layer names, joined.

    Raises `ParameterError` naming the word that matches nothing, with the nearest known one.
    """
    words = [targets] if isinstance(targets, str) else list(targets)
    found: dict[str, None] = {}
    for word in words:
        matched = [name for name, layer in network.named_modules() if _matches(word, name, layer)]
        if not matched:
            raise _nothing_matches(network, word)
        found.update(dict.fromkeys(matched))
    return list(found)


def _matches(word: str, name: str, layer: nn.Module) -> bool:
    if word in GROUPS:
        return GROUPS[word](name, layer)
    return isinstance(layer, nn.Linear | nn.Conv2d) and (name == word or name.endswith("." + word))


def _nothing_matches(network: nn.Module, word: str) -> ParameterError:
    suffixes = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules() if name}
    close = nearest(word, [*GROUPS, *suffixes])
    hint = f"did you mean {close!r}?" if close else f"use one of {', '.join(GROUPS)}, or names of layers"
    return ParameterError(f"strategy target {word!r} matches no layer of the model", hint=hint)
