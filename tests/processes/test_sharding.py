"""A frozen base in pieces: the unit gradients of the whole one, and each process holds its part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from forks import in_processes
from torch import nn

from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.processes.sharding import blocks, shard_frozen
from dp_diffusers.strategies import strategy_of

pytestmark = pytest.mark.slow

ROWS = 3


def gradients(network: nn.Module) -> np.ndarray:
    """The unit gradients of some rows, in one vector."""
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(ROWS, 4, 4, 4, generator=generator)
    rows = torch.arange(ROWS)
    source = HookedUnitGradients(network)
    losses = network(noisy, rows * 100, class_labels=rows).sample.square().flatten(1).sum(1)
    found = source.compute(losses, torch.ones(ROWS), RowOwners.of(rows))
    source.close()
    return torch.cat([one.reshape(-1) for one in found if one is not None]).numpy()


def test_guarantee_a_base_in_pieces_has_the_unit_gradients_of_the_whole(tiny_base: Any) -> None:
    network = tiny_base().network
    strategy_of({"name": "lora", "rank": 2, "targets": "attention"}).apply(network, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += torch.linspace(-0.3, 0.3, parameter.numel()).view(parameter.shape)
    whole = gradients(network)
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    values = sum(parameter.numel() for parameter in frozen)

    def in_pieces(team: Any) -> tuple[np.ndarray, int, list[str]]:
        shard_frozen(network, torch.device("cpu"), 60.0)
        held = [parameter for parameter in network.parameters() if not parameter.requires_grad]
        mine = sum(parameter.to_local().numel() for parameter in held)  # type: ignore[operator]
        trained = {type(parameter).__name__ for parameter in network.parameters() if parameter.requires_grad}
        return gradients(network), mine, sorted(trained)

    for found, mine, trained in in_processes(2, in_pieces):
        assert np.abs(found - whole).max() <= 1e-6 * np.abs(whole).max()
        assert 0.45 * values < mine < 0.6 * values
        assert trained == ["Parameter"]  # whole: hooks, rules and the optimiser see no pieces


def test_blocks_are_the_outermost_lists(tiny_base: Any) -> None:
    network = tiny_base().network
    found = [id(block) for block in blocks(network)]
    assert {id(block) for block in [*network.down_blocks, *network.up_blocks]} <= set(found)
    inner = {id(layer) for block in network.down_blocks for layer in block.modules() if layer is not block}
    assert not inner & set(found)
