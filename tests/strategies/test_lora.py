from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel

from dp_diffusers.errors import InputError, ModelError
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.lora import Lora, load_adapter, save_adapter

STRATEGIES: dict[str, Any] = {
    "attention": {"name": "lora", "rank": 2},
    "convolution": {"name": "lora", "rank": 2, "targets": "convolution"},
    "all, frozen A, extras": {
        "name": "lora",
        "rank": 4,
        "targets": "all",
        "freeze_a": True,
        "also": ["bias", "embedding", "norm"],
    },
    "names": {"name": "lora", "rank": 3, "alpha": 6, "targets": ["to_q", "conv1"]},
    "a bare LoraConfig": LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"]),
}


def _output(network: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    side = network.config.sample_size
    noisy = torch.randn(3, network.config.in_channels, side, side, generator=generator)
    with torch.no_grad():
        return network.eval()(noisy, torch.tensor([1, 500, 900]), class_labels=torch.tensor([0, 1, 2])).sample


def _disturb(network: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES.keys())
def strategy(request: pytest.FixtureRequest) -> Any:
    return strategy_of(request.param)


def test_a_new_adapter_leaves_the_function_unchanged(tiny_base: Callable[..., Any], strategy: Any) -> None:
    network = tiny_base().network
    before = _output(network)
    strategy.apply(network)
    assert torch.allclose(_output(network), before, atol=1e-6)


def test_only_the_adapter_is_trainable(tiny_base: Callable[..., Any], strategy: Any) -> None:
    network = tiny_base().network
    names = set(network.state_dict())
    strategy.apply(network)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all(".lora_" in name or ".modules_to_save." in name for name in trainable)
    assert not trainable & names


def test_saved_adapters_load_here_and_in_stock_peft(
    tiny_base: Callable[..., Any], strategy: Any, tmp_path: Path
) -> None:
    network = tiny_base().network
    config = strategy.apply(network)
    _disturb(network)
    save_adapter(network, config, tmp_path / "adapter")
    ours = tiny_base().network
    load_adapter(ours, tmp_path / "adapter")
    stock = PeftModel.from_pretrained(tiny_base().network, tmp_path / "adapter").base_model.model
    expected = network.state_dict()
    for loaded in (ours, stock):
        found = loaded.state_dict()
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.allclose(_output(loaded), _output(network), atol=1e-6)


def test_the_seed_decides_the_start_and_leaves_the_global_stream_alone(tiny_base: Callable[..., Any]) -> None:
    networks = [tiny_base().network for _ in range(3)]
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    for network, seed in zip(networks, [0, 0, 1]):
        Lora(rank=2, targets="all", freeze_a=True).apply(network, seed=seed)
    assert torch.equal(torch.rand(1), expected)
    first, second, other = (network.state_dict() for network in networks)
    name = next(name for name in first if ".lora_A." in name)
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_frozen_a_is_orthonormal(tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    Lora(rank=4, targets="attention", freeze_a=True).apply(network)
    matrix = next(value for name, value in network.named_parameters() if ".lora_A." in name)
    assert torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-5)
    assert not matrix.requires_grad


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ({"name": "lorra"}, "unknown strategy 'lorra'", "did you mean 'lora'"),
        ({"name": "lora", "targets": "atention"}, "matches no layer", "did you mean 'attention'"),
        ({"name": "lora", "targets": ["to_qq"]}, "matches no layer", "did you mean 'to_q'"),
        ({"name": "lora", "also": ["norms"]}, "unknown strategy.also entry 'norms'", "did you mean 'norm'"),
        ({"name": "lora", "rank": 0}, "expected rank > 0", ""),
        (3, "expected a strategy or a peft.LoraConfig, got int", ""),
    ],
)
def test_bad_strategies_are_refused(
    tiny_base: Callable[..., Any], spec: Any, message: str, hint: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        strategy_of(spec).apply(tiny_base().network)
    assert hint in (caught.value.hint or "")


def test_adapters_that_do_not_fit_are_refused(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not hold a peft adapter"):
        load_adapter(tiny_base().network, tmp_path)


def test_a_process_without_this_package_loads_the_adapter(
    tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    base = tiny_base()
    base.save(tmp_path / "base")
    config = Lora(rank=2, targets="all").apply(base.network)
    _disturb(base.network)
    save_adapter(base.network, config, tmp_path / "adapter")
    torch.save({"state": base.network.state_dict(), "output": _output(base.network)}, tmp_path / "expected.pt")
    script = """
import sys, torch
from diffusers import DDPMPipeline
from peft import PeftModel
folder = sys.argv[1]
pipe = DDPMPipeline.from_pretrained(folder + "/base")
unet = PeftModel.from_pretrained(pipe.unet, folder + "/adapter").base_model.model.eval()
expected = torch.load(folder + "/expected.pt")
state = unet.state_dict()
assert all(torch.equal(state[name], value) for name, value in expected["state"].items())
generator = torch.Generator().manual_seed(0)
noisy = torch.randn(3, unet.config.in_channels, 4, 4, generator=generator)
with torch.no_grad():
    output = unet(noisy, torch.tensor([1, 500, 900]), class_labels=torch.tensor([0, 1, 2])).sample
assert (output - expected["output"]).abs().max() < 1e-6
assert "dp_diffusers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
