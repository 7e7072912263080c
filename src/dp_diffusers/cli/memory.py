"""How much memory a training will take, from the base's own config files, before anything is loaded.

Guarantees an answer without torch: an estimate, good to about a factor of two, never a promise.
May import the standard library alone. Source: parameter counts of the safetensors header, and the shapes of
diffusers' U-Nets and transformers.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dp_diffusers.recipe import Recipe

FLOAT = 4  # bytes
LOADED_LIBRARIES = 500_000_000  # torch, diffusers, peft in a process
KEPT_PER_LAYER = 8  # activations that the backward pass keeps per residual block, in units of its width
ROWS_AUTO = 32  # about what a CPU is quickest with; on a GPU a training takes as many as fit
TENSORS = {
    "attention": r"\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)\.",
    "bias": r"\.bias$|norm[\w.]*\.weight$",
    "embedding": "^class_embedding|embedding_table",
}  # names of what a strategy without adapters trains; all of it where it is not listed


def estimate_memory(recipe: Recipe) -> int | None:
    """Bytes, or None where the base is not a local folder with a `unet` or `transformer` of known shape.

    libraries + weights + rows x activations + trained x (gradient, optimiser, average) + rows x trained.
    """
    unet, config = _network(Path(recipe.base))
    if config is None:
        return None
    rows = recipe.runtime.rows_per_pass
    rows = rows if isinstance(rows, int) else ROWS_AUTO
    weights = sum(map(_parameters, {part.parent for part in Path(recipe.base).glob("*/*.safetensors")}))
    trained = min(_parameters(unet), _trained(recipe, config, unet))
    activations = rows * _activations(config)
    return LOADED_LIBRARIES + FLOAT * (weights + activations + trained * (6 + rows))


def _network(base: Path) -> tuple[Path, dict[str, Any] | None]:
    """The folder of the network, and its configuration where its shape can be read from it."""
    for name, key in (("unet", "block_out_channels"), ("transformer", "num_attention_heads")):
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((base / name / "config.json").read_text(encoding="utf-8"))
            if isinstance(config, dict) and config.get(key):
                return base / name, config
    return base, None


def _transformer(config: dict[str, Any]) -> tuple[int, int, int]:
    """(layers, tokens, width) of a transformer; tokens of its own size, or those of Flux at 1024 pixels."""
    layers = (config.get("num_layers") or 1) + (config.get("num_single_layers") or 0)
    side = (config.get("sample_size") or 64) // (config.get("patch_size") or 1)
    return layers, side * side, config["num_attention_heads"] * config.get("attention_head_dim", 64)


def _trained(recipe: Recipe, config: dict[str, Any], unet: Path) -> int:
    """Number of trained weights: those of the adapters, or of the tensors that the strategy names."""
    strategy = recipe.strategy
    if strategy.rank is not None:
        return _adapter(config, strategy.rank, str(strategy.targets))
    return _parameters(unet, TENSORS.get(strategy.name, ""))


def _parameters(unet: Path, pattern: str = "") -> int:
    """Number of weights in tensors of such names, from the headers of the safetensors files."""
    return sum(_header_count(file, pattern) for file in sorted(unet.glob("*.safetensors")))


def _header_count(file: Path, pattern: str) -> int:
    """A safetensors file begins with the length of its JSON header, 8 bytes little-endian."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
    except (OSError, ValueError, struct.error):
        return 0
    total = 0
    for name, entry in header.items():
        if name != "__metadata__" and re.search(pattern, name):
            count = 1
            for size in entry["shape"]:
                count *= size
            total += count
    return total


def _widths(config: dict[str, Any]) -> list[tuple[int, int, bool]]:
    """(side, width, attention) of each resolution."""
    side = config.get("sample_size") or 32
    side = side if isinstance(side, int) else side[0]
    kinds = config.get("down_block_types") or []
    widths = config["block_out_channels"]
    return [
        (max(1, side >> level), width, "Attn" in kind or "Cross" in kind)
        for level, (width, kind) in enumerate(zip(widths, kinds))
    ]


def _blocks(config: dict[str, Any]) -> int:
    """Residual blocks per resolution, down and up."""
    layers = config.get("layers_per_block") or 1
    return 2 * (layers if isinstance(layers, int) else max(layers)) + 1


def _activations(config: dict[str, Any]) -> int:
    """Numbers kept per row for the backward pass."""
    if "block_out_channels" not in config:
        layers, tokens, width = _transformer(config)
        return layers * KEPT_PER_LAYER * 2 * tokens * width
    total = 0
    for side, width, attends in _widths(config):
        tokens = side * side
        total += _blocks(config) * KEPT_PER_LAYER * tokens * width
        total += _blocks(config) * tokens * tokens if attends else 0
    return total


def _adapter(config: dict[str, Any], rank: int, targets: str) -> int:
    """Numbers in the adapters: two factors per layer; four layers per attention, three per residual block."""
    if "block_out_channels" not in config:
        layers, _, width = _transformer(config)
        return layers * (4 if targets == "attention" else 8) * 2 * rank * width
    convolution = targets not in ("attention", "linear")
    total = 0
    for _, width, attends in _widths(config):
        total += _blocks(config) * 4 * 2 * rank * width if attends else 0
        total += _blocks(config) * 3 * rank * 10 * width if convolution else 0
    return total
