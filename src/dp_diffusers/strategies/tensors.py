"""Which tensors a word means: `attention`, `bias`, `norm`, `vector`, `embedding`, `all`.

Guarantee: every name returned is a parameter of the network that some output depends on, and a word that
finds nothing is refused. May import torch. Sources: attention alone, Lyu et al. 2023 (DP-LDM); bias and norm,
Ben Zaken et al. 2022 (BitFit), Bu et al. 2022 (DP-BiTFiT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from torch import nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies import targets

LABELS: Final = "class_embedding"
"""Where labels enter a U-Net, by a table or, as its `class_embed_type` says, by other layers."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A parameter, and the layer that owns it."""

    owner: str
    layer: nn.Module
    name: str
    parameter: nn.Parameter

    @property
    def path(self) -> str:
        """The parameter's name in the network."""
        return f"{self.owner}.{self.name}" if self.owner else self.name


def names(network: nn.Module, words: Iterable[str]) -> list[str]:
    """Names of the parameters that the words mean, each once, in the order of the network.

    Raises `ModelError` naming the word that finds nothing in this model.
    """
    wanted = {place.path for word in words for place in _found(network, word)}
    return [name for name, _ in network.named_parameters() if name in wanted]


def owners(network: nn.Module, word: str) -> list[str]:
    """Names of the layers that own what a word means; raises as `names`."""
    return list(dict.fromkeys(place.owner for place in _found(network, word)))


def _found(network: nn.Module, word: str) -> list[Place]:
    means, said = WORDS[word]
    found = [place for place in _places(network) if means(place)]
    if not found:
        raise ModelError(
            f"the strategy trains {said}, but {type(network).__name__} has none",
            hint="choose another strategy, or other entries of strategy.also",
        )
    return found


def _places(network: nn.Module) -> Iterator[Place]:
    """Every parameter that reaches an output."""
    discarded = targets.discarded(network)
    for owner, layer in network.named_modules():
        if owner not in discarded:
            for name, parameter in layer.named_parameters(recurse=False):
                yield Place(owner=owner, layer=layer, name=name, parameter=parameter)


def _is_bias(place: Place) -> bool:
    return place.name == "bias" and place.parameter.ndim == 1


def _is_norm(place: Place) -> bool:
    """Scale or shift of a group, layer or RMS norm, torch's own or diffusers'."""
    return type(place.layer).__name__.endswith("Norm") and place.parameter.ndim == 1


def _is_embedding(place: Place) -> bool:
    return isinstance(place.layer, nn.Embedding) or place.owner.split(".")[0] == LABELS


WORDS: Final[dict[str, tuple[Callable[[Place], bool], str]]] = {
    "all": (lambda place: True, "all parameters"),
    "attention": (lambda place: targets.is_attention(place.owner, place.layer), "attention projections"),
    "bias": (_is_bias, "biases"),
    "embedding": (_is_embedding, "embeddings of classes"),
    "norm": (_is_norm, "scales of normalisation layers"),
    "vector": (lambda place: _is_bias(place) or _is_norm(place), "biases and scales of normalisation layers"),
}
"""What each word means, and how an error says it."""
