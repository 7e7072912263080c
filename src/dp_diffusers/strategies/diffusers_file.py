"""The same low-rank adapter in diffusers' own file, which `pipeline.load_lora_weights` reads.

Guarantees that the file carries the scale (alpha) and the prefix of the pipeline's component, without which
diffusers reads a file in silence and applies it wrongly or not at all. May import torch and peft; the
pipeline's class is handed in. Source: diffusers' `save_lora_weights`.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

from peft import LoraConfig
from torch import nn

from dp_diffusers.strategies import in_place
from dp_diffusers.strategies.adapter import adapter_state

DIFFUSERS_FILE: Final = "pytorch_lora_weights.safetensors"
_FACTORS = (".lora_A.weight", ".lora_B.weight")
_OF_PEFT_ALONE: Final = ("olora", "pissa")
"""Starts that change the weights of the base too, which diffusers cannot do while it reads a file."""


def save_diffusers_lora(
    network: nn.Module, config: LoraConfig, folder: Path, *, pipeline_class: Any, component: str
) -> bool:
    """Writes `pytorch_lora_weights.safetensors` where a stock pipeline can read it; returns whether it did.

    pipeline_class: the class of the base's pipeline; component: `unet` or `transformer`. It is written only
    for a pipeline that has `load_lora_weights` for this component, and for an adapter of low-rank factors
    alone: diffusers would leave out everything else, and fails where they start from the base's weights.
    """
    state = adapter_state(network)
    pure = all(name.endswith(_FACTORS) for name in state) and not in_place.is_trained(network)
    started = str(config.init_lora_weights).lower() not in _OF_PEFT_ALONE
    if not (pure and started and _reads(pipeline_class, component)):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        f"{component}_lora_layers": {name: value.contiguous().cpu() for name, value in state.items()},
        f"{component}_lora_adapter_metadata": _metadata(config),
    }
    pipeline_class.save_lora_weights(folder, weight_name=DIFFUSERS_FILE, **options)
    return True


def _reads(pipeline_class: Any, component: str) -> bool:
    """Whether the pipeline reads such a file for this component, its scale included."""
    save = getattr(pipeline_class, "save_lora_weights", None)
    if save is None or not hasattr(pipeline_class, "load_lora_weights"):
        return False
    known = inspect.signature(save).parameters
    return {f"{component}_lora_layers", f"{component}_lora_adapter_metadata"} <= set(known)


def _metadata(config: LoraConfig) -> dict[str, Any]:
    """peft's configuration as plain values, its sets sorted, so that equal adapters give equal files."""
    return dict(json.loads(json.dumps(config.to_dict(), default=_plain)))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
