from __future__ import annotations

import pytest
import torch
from torch import nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies.adapter import has_adapter
from dp_diffusers.strategies.scratch import Scratch
from network_support import network_of


def test_guarantee_nothing_of_the_base_is_left() -> None:
    one, other = network_of("unet", seed=1), network_of("unet", seed=2)
    for network in (one, other):
        Scratch().apply(network, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    again = network_of("unet", seed=1)
    Scratch().apply(again, seed=4)
    assert not torch.equal(one.conv_in.weight, again.conv_in.weight)


def test_the_start_is_that_of_a_new_model_and_the_global_stream_stays() -> None:
    network = network_of("sd3", seed=1)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    Scratch().apply(network, seed=3)
    assert torch.equal(torch.rand(1), expected)
    fresh = network_of("sd3", seed=3)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert all(torch.equal(network.get_parameter(name), fresh.get_parameter(name)) for name in trained)


class Owner(nn.Module):
    """A parameter that nothing knows how to draw again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))


def test_other_modules_are_reset_layer_by_layer() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = network[0].weight.clone()
    Scratch().apply(network, seed=3)
    assert not torch.equal(network[0].weight, before)
    assert torch.equal(network[1].weight, torch.ones(2))


def test_what_cannot_be_drawn_again_is_refused_and_nothing_changed() -> None:
    network = nn.Sequential(Owner())
    before = network[0].inner.weight.clone()
    with pytest.raises(ModelError, match="cannot draw 0 anew: Owner has no reset_parameters"):
        Scratch().apply(network)
    assert torch.equal(network[0].inner.weight, before)
    assert not has_adapter(network)
