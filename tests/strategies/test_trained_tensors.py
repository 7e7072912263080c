"""Which layers and tensors a word means, on networks of several classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dp_diffusers.errors import ModelError
from dp_diffusers.strategies import strategy_of, targets, tensors
from network_support import network_of


class Block(nn.Module):
    """Names of the attentions of several diffusers classes, one layer each."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(2, 2))


def test_attention_is_found_in_joint_and_fused_blocks() -> None:
    joint = ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    fused = ["to_qkv_mlp_proj", "to_out", "to_qkv", "to_kv"]
    network = nn.ModuleDict({"joint": Block(*joint), "fused": Block(*fused), "other": Block("proj", "net")})
    assert set(targets.layers(network, "attention")) == {
        *(f"joint.{name}" for name in joint),
        *(f"fused.{name}" for name in fused),
    }
    assert targets.is_attention("attn.to_out.0", nn.Linear(2, 2))
    assert not targets.is_attention("into_q", nn.Linear(2, 2))
    assert not targets.is_attention("attn.to_q", nn.Conv2d(2, 2, 1))


def test_queries_that_nothing_depends_on_are_left_out() -> None:
    network = network_of("sd3")
    dropped = {"transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.norm_added_q"}
    assert targets.discarded(network) == dropped
    assert not dropped & set(targets.layers(network, "all"))
    assert "transformer_blocks.0.attn.add_q_proj" in targets.layers(network, "attention")
    assert all(not name.startswith(tuple(dropped)) for name in tensors.names(network, ["all"]))
    assert targets.discarded(network_of("flux")) == frozenset()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("timestep", 4), ("projection", 4), ("simple_projection", 2)],
)
def test_the_embedding_is_what_labels_go_through(kind: str, expected: int) -> None:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
        class_embed_type=kind,
        projection_class_embeddings_input_dim=8,
    )
    found = tensors.names(network, ["embedding"])
    assert len(found) == expected
    assert all(name.startswith("class_embedding.") for name in found)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("sd3", {"name": "embedding"}, "trains embeddings of classes, but SD3Transformer2DModel has none"),
        ("dit", {"name": "attention", "also": ["norm"]}, "scales of normalisation layers, but DiT"),
        ("flux", {"name": "lora", "also": ["embedding"]}, "embeddings of classes, but Flux"),
    ],
)
def test_words_that_find_nothing_are_refused(kind: str, spec: dict[str, Any], message: str) -> None:
    network = network_of(kind)
    before = {name: value.requires_grad for name, value in network.named_parameters()}
    with pytest.raises(ModelError, match=message):
        strategy_of(spec).apply(network)
    assert before == {name: value.requires_grad for name, value in network.named_parameters()}


def test_every_parameter_is_in_all() -> None:
    for kind in ("unet", "dit", "pixart", "flux"):
        network = network_of(kind)
        assert tensors.names(network, ["all"]) == [name for name, _ in network.named_parameters()]


def test_norms_are_found_by_their_kind() -> None:
    network = nn.Sequential(nn.RMSNorm(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.Linear(4, 4))
    assert tensors.owners(network, "norm") == ["0", "1", "2"]
    assert tensors.names(network, ["vector"]) == [
        *("0.weight", "1.weight", "1.bias", "2.weight", "2.bias", "3.bias"),
    ]
    assert all(torch.is_tensor(network.get_parameter(name)) for name in tensors.names(network, ["vector"]))
