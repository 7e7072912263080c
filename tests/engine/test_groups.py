"""Which parameters are clipped together."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from dp_diffusers.engine.clipping_rules import clipping_rules
from dp_diffusers.engine.groups import layer_groups, owner_of
from dp_diffusers.errors import ParameterError
from engine_support import CLIP, clipped_sum, make_box


class Net(nn.Module):
    """Two linear layers, a norm and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(3, 4), nn.Linear(4, 2), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.second(self.norm(self.first(x)).tanh()))


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("blocks.0.to_q.weight", "blocks.0.to_q"),
        ("blocks.0.to_q.lora_A.default.weight", "blocks.0.to_q"),
        ("blocks.0.to_q.lora_B.default.weight", "blocks.0.to_q"),
        ("to_q.lora_magnitude_vector.default.weight", "to_q"),
        ("embedding.lora_embedding_A.default", "embedding"),
        ("norm.modules_to_save.default.bias", "norm.modules_to_save.default"),
        ("scale", ""),
    ],
)
def test_owner_of_a_parameter(name: str, owner: str) -> None:
    assert owner_of(name) == owner


def test_both_halves_of_an_adapter_are_one_group_and_the_number_is_that_of_the_layers() -> None:
    assert layer_groups(Net()) == [0, 0, 1, 1, 2, 2]
    net = inject_adapter_in_model(LoraConfig(r=2, target_modules=["first", "second"]), Net())
    assert layer_groups(net) == [0, 0, 1, 1]
    net.norm.requires_grad_(True)
    assert layer_groups(net) == [0, 0, 1, 1, 2, 2]


def test_parameters_alone_show_no_layers() -> None:
    with pytest.raises(ParameterError, match="'per_layer' needs the layers"):
        make_box(Net().parameters(), clipping="per_layer")


@pytest.mark.parametrize("rule", [rule for rule in clipping_rules() if rule != "adaptive"])
def test_guarantee_a_unit_of_a_network_moves_the_sum_by_at_most_the_clip_norm(rule: str) -> None:
    torch.manual_seed(0)
    net, rows = Net(), torch.randn(12, 3) * 40
    owner, weight = torch.arange(4).repeat_interleave(3), torch.full((12,), 1 / 3)

    def total(first: int) -> torch.Tensor:
        passes = [list(range(first, 7)), list(range(7, 12))]
        return clipped_sum(
            net, lambda index: (net(rows[index]) * 9).square().sum(1), passes, owner, weight, clipping=rule
        )

    moved = float((total(0) - total(3)).norm())
    assert 0.5 * CLIP < moved <= CLIP * (1 + 1e-5)


def test_each_group_has_its_part_of_the_clip_norm() -> None:
    torch.manual_seed(0)
    net, rows = Net(), torch.randn(2, 3)
    box = make_box(net, clipping="per_layer")
    box.accumulate(
        (net(rows) * 1e3).square().sum(1), torch.zeros(2, dtype=torch.int64), torch.full((2,), 0.5)
    )
    totals, _ = box._sum.take()
    norms = [torch.cat([part.flatten() for part in totals[start : start + 2]]).norm() for start in (0, 2, 4)]
    assert [float(norm) for norm in norms] == pytest.approx([CLIP / 3**0.5] * 3, rel=1e-6)
