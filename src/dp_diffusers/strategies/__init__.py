"""What is trained: a strategy names the tensors, everything else stays frozen.

Guarantee: after `apply`, the trainable tensors of the network are the strategy's and no others. May import
torch and peft, never the engine or the accountant. A new strategy is one file and one line in `STRATEGIES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dp_diffusers.errors import unknown_name

STRATEGIES: dict[str, str] = {"lora": "dp_diffusers.strategies.lora:Lora"}


def strategy_of(spec: Any) -> Any:
    """A strategy from a mapping with `name` and its options, from a bare `peft.LoraConfig`, or one as it is.

    Raises `ParameterError` for an unknown name, with the nearest known one.
    """
    if hasattr(spec, "apply"):
        return spec
    if not isinstance(spec, dict):
        from dp_diffusers.strategies.lora import Lora

        return Lora.from_config(spec)
    options = dict(spec)
    name = options.pop("name", "lora")
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    module, attribute = STRATEGIES[name].split(":")
    return getattr(import_module(module), attribute)(**options)
