from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch import nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies.lora import Lora
from dp_diffusers.strategies.merging import merged
from network_support import network_of, output_of
from unet_support import disturb


def test_a_merged_network_is_a_plain_one_and_the_adapted_one_stays() -> None:
    network = network_of("unet")
    Lora(rank=2, targets="all", also=["bias", "norm"]).apply(network)
    disturb(network)
    plain = merged(network)
    fresh = network_of("unet", seed=5)
    fresh.load_state_dict(plain.state_dict())  # the very parameters of the class
    with torch.no_grad():
        assert torch.allclose(output_of("unet", fresh), output_of("unet", network), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert not hasattr(plain, "peft_config")
    assert any(parameter.requires_grad for parameter in network.parameters())


def test_a_bias_without_a_place_is_refused() -> None:
    network = network_of("conditional unet")
    Lora(rank=2, also=["bias"]).apply(network)
    with pytest.raises(ModelError, match=r"attn1\.to_q has a bias, and the layer has none"):
        merged(network)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd")
def test_a_convolution_in_groups_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    Lora(config=LoraConfig(r=2, target_modules=["0"])).apply(network)
    with pytest.raises(ModelError, match="0 belongs to a convolution in groups, which peft cannot merge"):
        merged(network)


def test_weights_that_are_not_finite_are_refused() -> None:
    network = network_of("unet")
    Lora(rank=2).apply(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(float("inf"))
    with pytest.raises(ModelError, match="is not finite"):
        merged(network)
