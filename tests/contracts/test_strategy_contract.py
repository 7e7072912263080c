"""What every strategy must do; a new line in `STRATEGIES` needs an example here, and inherits all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn

from dp_diffusers.diffusion.family import family_of
from dp_diffusers.errors import ModelError
from dp_diffusers.rehearsal import rehearse
from dp_diffusers.strategies import STRATEGIES, strategy_of
from dp_diffusers.strategies.lora import save_adapter
from unet_support import bounded, contribution, disturb, moved, new_loop

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"rank": 2, "targets": "attention"},
        {"rank": 2, "targets": "convolution"},
        {"rank": 2, "targets": "all", "freeze_a": True, "also": ["bias", "embedding", "norm"]},
    ],
}
SPECS = [{"name": name, **options} for name, examples in EXAMPLES.items() for options in examples]


@pytest.fixture(params=SPECS, ids=lambda spec: f"{spec['name']}-{spec['targets']}")
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def output(network: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(3, 4, 4, 4, generator=generator)
    with torch.no_grad():
        found = network.eval()(
            noisy, torch.tensor([1, 500, 900]), class_labels=torch.tensor([0, 1, 2])
        ).sample
    return torch.as_tensor(found)


def test_every_strategy_has_an_example() -> None:
    assert set(EXAMPLES) == set(STRATEGIES)


def test_it_begins_at_the_public_model(spec: dict[str, Any], tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    before = output(network)
    strategy_of(spec).apply(network)
    assert torch.allclose(output(network), before, atol=1e-6)


def test_the_optimisers_parameters_are_the_trainable_ones(
    spec: dict[str, Any], tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    loop = new_loop(tiny_base(), spec, *tiny_images)
    found = {id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]}
    wanted = {id(value) for value in loop.family.network.parameters() if value.requires_grad}
    assert found == wanted
    assert wanted


def test_the_dry_run_reaches_every_tensor(spec: dict[str, Any], tiny_base: Callable[..., Any]) -> None:
    family = family_of(tiny_base())
    strategy_of(spec).apply(family.network)
    rehearse(family)


def test_a_second_adapter_is_refused(spec: dict[str, Any], tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    strategy_of(spec).apply(network)
    with pytest.raises(ModelError, match="adapter already"):
        strategy_of(spec).apply(network)


def test_stock_peft_loads_it_bit_for_bit(
    spec: dict[str, Any], tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    network = tiny_base().network
    config = strategy_of(spec).apply(network)
    disturb(network)
    save_adapter(network, config, tmp_path)
    stock = PeftModel.from_pretrained(tiny_base().network, tmp_path).base_model.model
    expected, found = network.state_dict(), stock.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.allclose(output(stock), output(network), atol=1e-6)


@pytest.mark.parametrize("draws", [1, 4, 12])
def test_guarantee_one_unit_is_worth_the_clip_norm(
    spec: dict[str, Any], draws: int, tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    loop = new_loop(tiny_base(), spec, *tiny_images, draws=draws)
    assert contribution(loop, 3) > 0.999
    assert bounded(contribution(loop, 3))
    assert bounded(moved(loop, range(6), leaves=0))


def test_guarantee_units_of_unequal_size_are_worth_the_clip_norm(
    spec: dict[str, Any], tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    owner = np.array([0] * 8 + [1] * 3 + [2] + [3] * 18)
    loop = new_loop(tiny_base(), spec, *tiny_images, draws=2, owner=owner)
    for leaves in range(4):
        assert bounded(contribution(loop, leaves))
        assert bounded(moved(loop, range(4), leaves=leaves))
