"""What is trained: a strategy names the tensors, everything else stays frozen.

Guarantee: after `apply`, the trainable tensors of the network are the strategy's and no others. May import
torch and peft, never the engine or the accountant. A new strategy is one file and one line in `STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from importlib import import_module
from typing import Any

from dp_diffusers.errors import ParameterError, nearest, unknown_name

STRATEGIES: dict[str, str] = {
    "lora": "dp_diffusers.strategies.lora:Lora",
    "frozen_a": "dp_diffusers.strategies.frozen_a:FrozenA",
    "sapf": "dp_diffusers.strategies.sapf:Sapf",
    "attention": "dp_diffusers.strategies.subset:Attention",
    "bias": "dp_diffusers.strategies.subset:Bias",
    "embedding": "dp_diffusers.strategies.subset:Embedding",
    "full": "dp_diffusers.strategies.subset:Full",
    "scratch": "dp_diffusers.strategies.scratch:Scratch",
}


def document_of(spec: Any) -> dict[str, Any]:
    """A strategy as a plain document, the same in every process: sets are sorted."""
    if spec is None:
        return {"name": "lora"}
    if isinstance(spec, Mapping):
        return {str(key): _plain(value) for key, value in spec.items()}
    if isinstance(spec, str | int | float | list | tuple):
        raise ParameterError(
            f"expected a strategy as a mapping or a peft.LoraConfig, got {spec!r}",
            hint="such as {'name': 'lora', 'rank': 8}",
        )
    facts = spec.to_dict() if hasattr(spec, "to_dict") else {**vars(spec)}
    facts.pop("peft_version", None)
    return {"kind": type(spec).__name__, **{str(key): _plain(value) for key, value in facts.items()}}


def name_of(spec: Any) -> str:
    """What a strategy is called: its `name`, or the kind of object that it is."""
    document = document_of(spec)
    return str(document.get("name", document.get("kind")))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    return document_of(value) if hasattr(value, "__dict__") else str(value)


def strategy_of(spec: Any) -> Any:
    """A strategy from a mapping with `name` and its options, from a bare `peft.LoraConfig`, or one as it is.

    An option that is None is left out, as a recipe has it for keys of other strategies. Raises
    `ParameterError` for an unknown name, with the nearest known one, and for an option without effect.
    """
    if hasattr(spec, "apply"):
        return spec
    if not isinstance(spec, Mapping):
        from dp_diffusers.strategies.lora import Lora

        return Lora.from_config(spec)
    options = {str(key): value for key, value in spec.items() if value is not None}
    name = options.pop("name", "lora")
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    module, attribute = STRATEGIES[name].split(":")
    kind = getattr(import_module(module), attribute)
    for key in options:
        require_effect(key, name, [field.name for field in fields(kind) if field.name != "config"])
    return kind(**options)


def require_effect(key: str, name: str, known: Sequence[str]) -> None:
    """Raises `ParameterError` for an option that the strategy `name` has no use for. known: those it has."""
    if key not in known:
        close = nearest(key, known)
        listed = f"{name} has {', '.join(known) or 'no options'}"
        hint = f"did you mean {close!r}?" if close else f"leave it out: {listed}"
        raise ParameterError(f"strategy.{key} has no effect with strategy.name {name}", hint=hint)
