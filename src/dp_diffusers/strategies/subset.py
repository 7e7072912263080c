"""Training some of the network's own tensors, without an adapter beside them.

Guarantees that exactly the named tensors are trained and saved, and that training begins at the public model.
May import torch and peft. Sources: attention alone, Lyu et al. 2023 (DP-LDM); bias and norm, Ben Zaken et al.
2022 (BitFit) and Bu et al. 2022 (DP-BiTFiT); everything, Ghalebikesabi et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peft import LoraConfig
from torch import nn

from dp_diffusers.strategies import in_place, tensors
from dp_diffusers.strategies.adapter import require_none
from dp_diffusers.strategies.lora import require_known


class Subset:
    """A strategy that trains what its `words` (those of `tensors`) mean."""

    words: Sequence[str]

    def apply(self, network: nn.Module, *, seed: int = 0) -> LoraConfig:
        """Makes the tensors trainable and everything else frozen; returns peft's configuration of the file.

        `seed` decides nothing here: training begins at the public model. Raises `ModelError` for a network
        with an adapter, or without such tensors.
        """
        del seed
        require_none(network)
        return in_place.train(network, tensors.names(network, self.words))


@dataclass(frozen=True, kw_only=True)
class Attention(Subset):
    """Weights and biases of the attention projections.

    Args:
        also: further tensors to train: `embedding` (class embeddings), `norm` (normalisation layers), `bias`
            (of every layer).
    """

    also: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_known(self.also)

    @property
    def words(self) -> Sequence[str]:  # type: ignore[override]
        """`attention`, and what `also` adds."""
        return ("attention", *self.also)


@dataclass(frozen=True, kw_only=True)
class Bias(Subset):
    """Biases of every layer, and scales and shifts of the normalisation layers.

    The file holds these vectors alone: a thousandth of the network.
    """

    words = ("vector",)


@dataclass(frozen=True, kw_only=True)
class Embedding(Subset):
    """The table of class embeddings, or the layers that labels go through where there is no table."""

    words = ("embedding",)


@dataclass(frozen=True, kw_only=True)
class Full(Subset):
    """Every parameter that an output depends on, those of containers and of the network itself included."""

    words = ("all",)
