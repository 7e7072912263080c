from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from dp_diffusers.errors import GuaranteeError, ModelError
from dp_diffusers.strategies import in_place, strategy_of
from dp_diffusers.strategies.adapter import has_adapter, load_adapter, save_adapter
from network_support import network_of, output_of
from unet_support import disturb

WEIGHTS = "adapter_model.safetensors"


def saved(network: Any, spec: dict[str, Any], folder: Path) -> LoraConfig:
    """Applies a strategy, moves what it trains, and saves it."""
    config: LoraConfig = strategy_of(spec).apply(network)
    disturb(network)
    save_adapter(network, config, folder)
    return config


@pytest.mark.parametrize("name", ["lora", "bias", "full"])
def test_a_loaded_adapter_saves_as_the_same_file(name: str, tmp_path: Path) -> None:
    network, again = network_of("unet"), network_of("unet")
    config = saved(network, {"name": name}, tmp_path / "one")
    load_adapter(again, tmp_path / "one")
    assert has_adapter(again)
    save_adapter(again, config, tmp_path / "two")
    one, two = ((tmp_path / folder / WEIGHTS).read_bytes() for folder in ("one", "two"))
    assert one == two


def test_a_file_holds_what_was_trained_and_nothing_else(tmp_path: Path) -> None:
    network = network_of("unet")
    saved(network, {"name": "bias"}, tmp_path)
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    found = load_file(tmp_path / WEIGHTS)
    assert {name.removeprefix("base_model.model.") for name in found} == set(trained)
    assert all(value.ndim == 1 for value in found.values())


def test_parameters_of_the_network_itself_are_saved(tmp_path: Path) -> None:
    network = network_of("pixart")
    saved(network, {"name": "full"}, tmp_path)
    stock = PeftModel.from_pretrained(network_of("pixart"), tmp_path).base_model.model
    assert torch.equal(stock.scale_shift_table, network.scale_shift_table)
    assert not torch.equal(stock.scale_shift_table, network_of("pixart").scale_shift_table)


def test_a_model_that_was_merged_may_be_adapted(tmp_path: Path) -> None:
    saved(network_of("unet"), {"name": "lora"}, tmp_path)
    merged = PeftModel.from_pretrained(network_of("unet"), tmp_path).merge_and_unload()
    assert not has_adapter(merged)
    strategy_of({"name": "attention"}).apply(merged)


@pytest.mark.planted
def test_guarantee_a_tensor_that_was_not_named_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "tensors", lambda network: dict(network.named_parameters()))
    with pytest.raises(GuaranteeError, match="expected 1 trainable tensors, got 145"):
        strategy_of({"name": "embedding"}).apply(network_of("unet"))


def test_adapters_that_do_not_fit_are_refused(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not hold a peft adapter"):
        load_adapter(tiny_base().network, tmp_path)
    saved(network_of("unet"), {"name": "bias"}, tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    name = next(iter(state))
    for changed in ({name: torch.zeros(3)}, {"base_model.model.nowhere.bias": torch.zeros(3)}):
        save_file({**state, **changed}, tmp_path / WEIGHTS)
        with pytest.raises(ModelError, match="does not fit the base model"):
            load_adapter(network_of("unet"), tmp_path)


@pytest.mark.slow
def test_a_process_without_this_package_loads_adapters(tiny_base: Callable[..., Any], tmp_path: Path) -> None:
    tiny_base().save(tmp_path / "base")
    specs = {"lora": {"name": "lora", "rank": 2, "targets": "all"}, "bias": {"name": "bias"}}
    for name, spec in specs.items():
        network = tiny_base().network.eval()
        saved(network, spec, tmp_path / name)
        with torch.no_grad():
            facts = {"state": network.state_dict(), "output": output_of("unet", network)}
        torch.save(facts, tmp_path / name / "expected.pt")
    script = """
import sys, torch
from diffusers import DDPMPipeline
from peft import PeftModel
folder = sys.argv[1]
for name in ("lora", "bias"):
    pipe = DDPMPipeline.from_pretrained(folder + "/base")
    unet = PeftModel.from_pretrained(pipe.unet, folder + "/" + name).base_model.model.eval()
    expected = torch.load(folder + "/" + name + "/expected.pt")
    state = unet.state_dict()
    assert set(state) == set(expected["state"])
    assert all(torch.equal(state[name], value) for name, value in expected["state"].items())
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(4, 4, 4, 4, generator=generator)
    with torch.no_grad():
        output = unet(noisy, torch.tensor([1, 300, 600, 900]), class_labels=torch.arange(4) % 3).sample
    assert (output - expected["output"]).abs().max() < 1e-6
assert "dp_diffusers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
