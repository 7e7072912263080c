"""The numbers in the guide are those that the code gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies import STRATEGIES, strategy_of
from dp_diffusers.strategies.sapf import choose
from network_support import network_of

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "strategies.md"


def row(name: str) -> list[str]:
    """The three counts of a strategy in the guide's first table."""
    line = next(line for line in GUIDE.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.split("|")[3:6]]


def large() -> nn.Module:
    """The U-Net of Stable Diffusion 1.5, without memory."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def count(name: str, network: nn.Module) -> str:
    # a random start and an orthonormal one need memory, and train as many numbers as their relatives
    strategy = strategy_of({"name": {"scratch": "full", "frozen_a": "lora"}.get(name, name)})
    options: dict[str, Any] = {}
    if name == "sapf":
        ranks = {layer: float(place) for place, layer in enumerate(strategy.candidates(network))}
        options = {"chosen": choose(ranks, strategy.fraction)}
    try:
        strategy.apply(network, **options)
    except ModelError:
        return "has none"
    trained = [(key, value) for key, value in network.named_parameters() if value.requires_grad]
    if name == "frozen_a":
        trained = [(key, value) for key, value in trained if ".lora_B." in key]
    return f"{sum(value.numel() for _, value in trained):,}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_counts_on_tiny_networks(name: str) -> None:
    assert row(name)[:2] == [count(name, network_of("unet")), count(name, network_of("dit"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_counts_at_the_size_of_stable_diffusion(name: str) -> None:
    assert row(name)[2] == count(name, large())
