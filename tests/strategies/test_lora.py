from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from dp_diffusers.errors import GuaranteeError, InputError
from dp_diffusers.strategies import strategy_of
from dp_diffusers.strategies.lora import Lora, load_adapter, save_adapter

STRATEGIES: dict[str, Any] = {
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
        (
            {"name": "lora", "rnk": 2},
            "strategy.rnk has no effect with strategy.name lora",
            "did you mean 'rank'",
        ),
        (
            {"name": "full", "also": ["norm"]},
            "strategy.also has no effect with strategy.name full",
            "no options",
        ),
        (3, "expected a strategy or a peft.LoraConfig, got int", ""),
    ],
)
def test_bad_strategies_are_refused(
    tiny_base: Callable[..., Any], spec: Any, message: str, hint: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        strategy_of(spec).apply(tiny_base().network)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"bias": "all"}, r"LoraConfig\(bias='all'\)", 'also=["bias"]'),
        ({"bias": "lora_only"}, r"LoraConfig\(bias='lora_only'\)", "lora_bias=True"),
        (
            {"trainable_token_indices": {"class_embedding": [0, 1]}},
            r"LoraConfig\(trainable_token_indices=\{'class_embedding': \[0, 1\]\}\)",
            'also=["embedding"]',
        ),
        (
            {"target_modules": None, "target_parameters": ["to_q.weight"]},
            r"LoraConfig\(target_parameters=\['to_q.weight'\]\) is not supported",
            "target_modules",
        ),
        (
            {"target_parameters": ["to_k.weight"]},
            r"\(target_parameters=\['to_k.weight'\]\)",
            "target_modules",
        ),
        ({"init_lora_weights": "eva"}, r"init_lora_weights='eva'\)", "gaussian"),
        ({"init_lora_weights": "corda"}, r"init_lora_weights='corda'\)", "gaussian"),
        ({"init_lora_weights": "lora_ga"}, r"init_lora_weights='lora_ga'\)", "gaussian"),
        ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights='pissa_niter_4'\)", "gaussian"),
        ({"init_lora_weights": "gausian"}, r"init_lora_weights='gausian'\)", "gaussian"),
    ],
)
def test_what_a_ready_configuration_would_not_get_is_refused(
    options: dict[str, Any], message: str, hint: str
) -> None:
    config = LoraConfig(r=2, target_modules=["to_q"])
    for name, value in options.items():  # peft itself looks at some of them
        setattr(config, name, value)
    with pytest.raises(InputError, match=message) as caught:
        strategy_of(config)
    assert hint in (caught.value.hint or "")


def test_a_table_of_embeddings_is_trained_whole_or_not_at_all(tiny_base: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="layer class_embedding is a table of embeddings") as caught:
        strategy_of(LoraConfig(r=2, target_modules=["class_embedding", "to_q"])).apply(tiny_base().network)
    assert 'modules_to_save=["class_embedding"]' in (caught.value.hint or "")
    whole = LoraConfig(r=2, target_modules=["to_q"], modules_to_save=["class_embedding"])
    strategy_of(whole).apply(tiny_base().network)


class Ending(nn.Module):
    """A norm, and a layer of another kind whose name ends like the norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.last_norm = nn.Linear(4, 4)


@pytest.mark.planted
def test_guarantee_peft_changes_no_layer_that_was_not_named() -> None:
    """peft wraps every layer whose name ends like a named one: here a linear layer beside the norm."""
    with pytest.raises(GuaranteeError, match=r"the strategy names: last_norm$"):
        Lora(rank=2, also=["norm"]).apply(Ending())


def test_a_layer_that_peft_cannot_adapt_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(InputError, match=r"peft cannot adapt a layer: .*groups=4 and rank 3"):
        Lora(rank=3, targets="all").apply(network)
