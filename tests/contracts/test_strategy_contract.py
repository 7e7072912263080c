"""What every strategy must do; a new line in `STRATEGIES` needs an example here, and inherits all tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn

from dp_diffusers.diffusion.family import family_of
from dp_diffusers.engine.dry_run import dry_run
from dp_diffusers.errors import ModelError
from dp_diffusers.loop.rehearsal import rehearse
from dp_diffusers.strategies import STRATEGIES, strategy_of
from dp_diffusers.strategies.adapter import has_adapter, save_adapter
from dp_diffusers.strategies.merging import merged
from engine_support import clipped_sum
from family_support import apply_strategy
from network_support import NETWORKS, ROWS, losses_of, network_of, output_of
from unet_support import bounded, contribution, disturb, moved, new_loop

LORA = r"\.lora_[AB]\."
LORA_B = r"\.lora_B\."
WHOLE = r"norm.*\.modules_to_save\.|class_embedding\.modules_to_save\."
ATTENTION = r"\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)\.(weight|bias)$"
BIAS = r"\.bias$|^(conv|proj)_\w+\.bias$"
NORM = r"norm[\w.]*\.(weight|bias)$"
TABLE = r"class_embedding\.weight$|embedding_table\.weight$"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A strategy, and names of tensors: those that it trains, and those of them that it does not."""

    name: str
    options: dict[str, Any]
    trains: str
    but: str = "^$"

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{value}" for value in self.options.values())])

    def apply(self, network: nn.Module, *, seed: int = 0) -> Any:
        return apply_strategy({"name": self.name, **self.options}, network, seed=seed)


def example(name: str, trains: str, but: str = "^$", **options: Any) -> Example:
    return Example(name=name, options=options, trains=trains, but=but)


EXAMPLES = [
    example("lora", LORA, rank=2, targets="attention"),
    example("lora", LORA, rank=2, targets="convolution"),
    example(
        "lora",
        f"{LORA_B}|{WHOLE}",
        rank=2,
        targets="all",
        freeze_a=True,
        also=["bias", "embedding", "norm"],
    ),
    example("frozen_a", LORA_B, rank=2),
    example("sapf", LORA, rank=2, fraction=0.5),
    example("attention", ATTENTION),
    example("attention", f"{ATTENTION}|{NORM}|{TABLE}", also=["norm", "embedding"]),
    example("bias", f"{BIAS}|{NORM}"),
    example("embedding", TABLE),
    example("full", ""),
    example("scratch", ""),
]
TEXT = ("conditional unet", "pixart", "sd3", "flux")
OTHERS = [
    example("lora", LORA, rank=2, targets="all"),
    example("frozen_a", LORA_B, rank=2),
    example("sapf", LORA, rank=2),
    example("attention", ATTENTION, r"1\.attn\.add_q_proj"),
    example(
        "bias",
        f"{BIAS}|norm_(added_)?[qk]\\.weight|norm\\d?\\.weight|conv_norm",
        r"1\.attn\.(add_q_proj|norm_added_q)",
    ),
    example("embedding", TABLE),
    example("full", "", r"1\.attn\.(add_q_proj|norm_added_q)"),
    example("scratch", "", r"1\.attn\.(add_q_proj|norm_added_q)"),
]
PAIRS = [(kind, one) for kind in NETWORKS for one in OTHERS if not (one.name == "embedding" and kind in TEXT)]


@pytest.fixture(params=EXAMPLES, ids=str)
def spec(request: pytest.FixtureRequest) -> Example:
    return request.param  # type: ignore[no-any-return]


def trained(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def output(network: nn.Module, kind: str = "unet") -> torch.Tensor:
    with torch.no_grad():
        return output_of(kind, network.eval())


def require_exactly(one: Example, network: nn.Module) -> None:
    """The trained tensors are those that the example names, and there are some."""
    wanted = {
        name
        for name, _ in network.named_parameters()
        if re.search(one.trains, name) and not re.search(one.but, name)
    }
    assert trained(network) == wanted
    assert wanted


def require_same(found: nn.Module, expected: nn.Module, kind: str = "unet") -> None:
    left, right = found.state_dict(), expected.state_dict()
    assert set(left) == set(right)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert torch.allclose(output(found, kind), output(expected, kind), atol=1e-6)


def require_merges(network: nn.Module, fresh: nn.Module, kind: str = "unet") -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = merged(network)
    assert set(plain.state_dict()) == set(fresh.state_dict())
    assert not any("peft" in type(layer).__module__ for layer in plain.modules())
    assert not has_adapter(plain)
    assert torch.allclose(output(plain, kind), output(network, kind), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_every_strategy_has_an_example() -> None:
    assert {one.name for one in EXAMPLES} == {one.name for one in OTHERS} == set(STRATEGIES)


def test_it_begins_at_the_public_model(spec: Example, tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    before = output(network)
    spec.apply(network, seed=1)  # the network itself was drawn from another seed
    assert torch.allclose(output(network), before, atol=1e-6) == (spec.name != "scratch")


def test_it_trains_what_it_names_alone(spec: Example, tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    spec.apply(network)
    require_exactly(spec, network)
    assert has_adapter(network)


def test_the_optimisers_parameters_are_the_trainable_ones(
    spec: Example, tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    loop = new_loop(tiny_base(), spec, *tiny_images)
    found = {id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]}
    wanted = {id(value) for value in loop.family.network.parameters() if value.requires_grad}
    assert found == wanted
    assert wanted


@pytest.mark.slow
def test_the_dry_run_reaches_every_tensor(spec: Example, tiny_base: Callable[..., Any]) -> None:
    family = family_of(tiny_base())
    spec.apply(family.network)
    rehearse(family)


def test_a_second_adapter_is_refused(spec: Example, tiny_base: Callable[..., Any]) -> None:
    network = tiny_base().network
    spec.apply(network)
    with pytest.raises(ModelError, match="adapter already"):
        strategy_of({"name": "full"}).apply(network)
    with pytest.raises(ModelError, match="adapter already"):
        strategy_of({"name": "lora"}).apply(network)


def test_stock_peft_loads_it_bit_for_bit_and_it_merges(
    spec: Example, tiny_base: Callable[..., Any], tmp_path: Path
) -> None:
    network = tiny_base().network
    config = spec.apply(network)
    disturb(network)
    save_adapter(network, config, tmp_path)
    require_same(PeftModel.from_pretrained(tiny_base().network, tmp_path).base_model.model, network)
    require_merges(network, tiny_base().network)


@pytest.mark.parametrize(
    "draws", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(12, marks=pytest.mark.slow)]
)
def test_guarantee_one_unit_is_worth_the_clip_norm(
    spec: Example, draws: int, tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    loop = new_loop(tiny_base(), spec, *tiny_images, draws=draws)
    assert contribution(loop, 3) > 0.999
    assert bounded(contribution(loop, 3))
    assert bounded(moved(loop, range(6), leaves=0))


@pytest.mark.slow
def test_guarantee_units_of_unequal_size_are_worth_the_clip_norm(
    spec: Example, tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    owner = np.array([0] * 8 + [1] * 3 + [2] + [3] * 6)
    images, labels = (values[: len(owner)] for values in tiny_images)
    loop = new_loop(tiny_base(), spec, images, labels, draws=2, owner=owner)
    assert bounded(contribution(loop, 0))
    assert bounded(moved(loop, range(4), leaves=0))
    assert bounded(moved(loop, [0, 2], leaves=2))


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def pair(request: pytest.FixtureRequest) -> tuple[str, Example]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.slow
def test_other_networks_begin_at_the_public_model_and_rehearse(pair: tuple[str, Example]) -> None:
    kind, one = pair
    network = network_of(kind)
    before = output(network, kind)
    one.apply(network, seed=1)
    assert torch.allclose(output(network, kind), before, atol=1e-6) == (one.name != "scratch")
    require_exactly(one, network)
    dry_run(network, losses_of(kind, network))


@pytest.mark.slow
def test_stock_peft_loads_other_networks_and_they_merge(pair: tuple[str, Example], tmp_path: Path) -> None:
    kind, one = pair
    network = network_of(kind)
    config = one.apply(network)
    disturb(network)
    save_adapter(network, config, tmp_path)
    require_same(PeftModel.from_pretrained(network_of(kind), tmp_path).base_model.model, network, kind)
    require_merges(network, network_of(kind), kind)


@pytest.mark.slow
def test_guarantee_one_unit_of_other_networks_is_worth_the_clip_norm(pair: tuple[str, Example]) -> None:
    kind, one = pair
    network = network_of(kind)
    one.apply(network)
    disturb(network)
    losses, owner = losses_of(kind, network), torch.tensor([0, 0, 0, 1])
    weight = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])

    def summed(*rows: int) -> torch.Tensor:
        return clipped_sum(network, losses, [list(rows)], owner, weight, clip_norm=1e-3) / 1e-3

    both = summed(*range(ROWS))
    assert float(summed(3).norm()) == pytest.approx(1, abs=1e-3)
    assert bounded(float((both - summed(0, 1, 2)).norm()))
    assert bounded(float((both - summed(3)).norm()))
