"""The rehearsal: what it lets through, what it refuses, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dp_diffusers.engine import layer_rules
from dp_diffusers.engine.dry_run import dry_run
from dp_diffusers.errors import ModelError


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh())


class UsedOutside(Plain):
    """Applies a weight without calling the layer that owns it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.one(x).tanh(), self.two.weight, self.two.bias)


class Unreached(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.one(x)


class Mixing(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class Dropping(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5)


def losses_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return lambda index: module(x[index]).square().sum(1)


def lora(module: nn.Module) -> nn.Module:
    return inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["one", "two"]), module.requires_grad_(False)
    )


def test_a_fresh_lora_passes_and_nothing_is_changed() -> None:
    module = lora(Plain())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    dry_run(module, losses_of(module))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (UsedOutside, r"two.weight, two.bias: used outside the module that owns them"),
        (Unreached, r"no loss depends on the trainable tensors two.weight, two.bias"),
        (Mixing, r"removing a row changes the losses of the others"),
        (Dropping, r"two equal calls give different losses"),
        (lambda: nn.Sequential(Plain(), nn.BatchNorm1d(2)), r"layer 1: BatchNorm1d mixes the units"),
        (lambda: Plain().requires_grad_(False), r"no trainable tensor"),
    ],
)
def test_guarantee_what_rules_cannot_reach_is_refused_by_name(
    module: Callable[[], nn.Module], message: str
) -> None:
    torch.manual_seed(0)
    built = module()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        dry_run(built, losses_of(built))
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert not any(layer._forward_hooks for layer in built.modules())


def test_losses_of_the_wrong_shape_are_refused() -> None:
    module = Plain()
    with pytest.raises(ModelError, match=r"expected one loss per row, \[4\], got \[\]"):
        dry_run(module, lambda index: module(torch.ones(len(index), 3)).sum())


@pytest.mark.planted
def test_planted_wrong_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right, methods = layer_rules._RULES[nn.Linear]

    def half(*given: Any) -> dict[str, Tensor]:
        return {name: gradient * 0.5 for name, gradient in right(*given).items()}

    monkeypatch.setitem(layer_rules._RULES, nn.Linear, (half, methods))
    module = Plain()
    with pytest.raises(ModelError, match=r"one\.weight"):
        dry_run(module, losses_of(module))


def test_a_diffusers_unet_passes(tiny_base: Callable[..., Any]) -> None:
    """LoRA on every convolution and linear layer, and the class embedding and norms as they are."""
    unet = tiny_base().network.requires_grad_(False)
    targets = r".*(to_q|to_k|to_v|to_out\.0|conv1|conv2|conv_shortcut|time_emb_proj|conv_in|conv_out|conv)"
    unet = inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), unet)
    for name, parameter in unet.named_parameters():
        if "norm" in name or "class_embedding" in name:
            parameter.requires_grad_(True)
    x, noise = torch.randn(2, 4, *[unet.config.in_channels, unet.config.sample_size, unet.config.sample_size])
    time, label = torch.tensor([10, 200, 500, 900]), torch.tensor([0, 1, 2, 1])

    def losses(index: Tensor) -> Tensor:
        predicted = unet(x[index], time[index], class_labels=label[index]).sample
        return (predicted - noise[index]).square().mean((1, 2, 3))

    dry_run(unet, losses)


class Averaging(Plain):
    """Keeps a running average of what it saw, as codebooks and observers of quantisation do."""

    def __init__(self, *, anew: bool) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(3))
        self.anew = anew

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = 0.5 * self.average + 0.5 * x.detach().mean(0)
            if self.anew:
                self.average = mean
            else:
                self.average.copy_(mean)
            return super().forward(x)
        return super().forward(x - self.average)


class Lazy(Plain):
    """Registers in its first pass: an average, which later ones change, or a table, which they do not."""

    def __init__(self, *, table: bool) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "kept"):
            self.register_buffer("kept", torch.arange(3.0), persistent=False)
        elif not self.table:
            self.kept.lerp_(x.detach().mean(0), 0.5)
        return super().forward(x)


class Writing(Plain):
    """Keeps its average in a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.average.lerp_(x.mean(0), 0.5)
        return super().forward(x)


class Growing(Plain):
    """Keeps all that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.kept = torch.cat([self.kept, x.detach()])
        return super().forward(x)


def test_guarantee_what_is_kept_in_other_ways_is_refused_too() -> None:
    for module, name in ((Lazy(table=False), "kept"), (Growing(), "kept"), (Writing(), "average")):
        with pytest.raises(ModelError, match=f"{name}: a pass changes what the model keeps there"):
            dry_run(module, losses_of(module))
        kept = dict(module.named_buffers()).get("kept")
        assert kept is None or kept.shape == (0, 3), "put back"


def test_a_table_that_is_filled_in_once_may_stay() -> None:
    dry_run(module := Lazy(table=True), losses_of(module))
    assert torch.equal(module.kept, torch.arange(3.0))


@pytest.mark.parametrize("anew", [False, True])
def test_guarantee_a_model_that_keeps_averages_is_refused_and_left_as_it_was(anew: bool) -> None:
    module = Averaging(anew=anew)
    with pytest.raises(ModelError, match="average: a pass changes what the model keeps there"):
        dry_run(module, losses_of(module))
    assert not module.average.any()
    dry_run(module.eval(), losses_of(module))
