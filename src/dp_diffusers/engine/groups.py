"""Which parameters are clipped together: one group for each layer that owns trainable parameters.

Guarantees: the groups follow from the model's names alone, never from gradients, so that their number is
public; both halves of an adapter are in the group of the layer that it sits on. May import torch.
"""

from __future__ import annotations

import re
from typing import Final

from torch import nn

from dp_diffusers.engine.layer_checks import trainable

# peft hangs the parts of an adapter into the layer as `lora_A.<name>`, `lora_B.<name>` and the like
_PART_OF_ADAPTER: Final = re.compile(r"\.lora_[^.]+(\..*)?$")


def layer_groups(module: nn.Module) -> list[int]:
    """For each trainable parameter, in order, the number of its layer's group, 0 to G - 1."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(owner_of(name), len(numbers)) for name in trainable(module)]


def owner_of(parameter: str) -> str:
    """Name of the layer of a parameter: `to_q` for `to_q.weight` and for `to_q.lora_A.default.weight`."""
    owner = parameter.rpartition(".")[0]
    return _PART_OF_ADAPTER.sub("", f".{owner}")[1:]
