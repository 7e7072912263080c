"""Captures: what is refused by name, and what must leave no trace."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from dp_diffusers.engine import unit_grads
from dp_diffusers.engine.checkpointing import checkpointed
from dp_diffusers.engine.layer_checks import check_layers
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import GuaranteeError, ModelError
from engine_support import assert_close, fast_gradients, make_box, oracle, release


def rows(count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(count, 3), torch.arange(count), torch.ones(count)


@pytest.mark.parametrize("training", [True, False])
def test_guarantee_layers_that_mix_units_are_refused_by_name(training: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)
    )
    module.append(nn.SyncBatchNorm(4)).requires_grad_(False)[0].requires_grad_(True)
    with pytest.raises(
        ModelError, match=r"layer 1: BatchNorm2d(.|\n)*layer 2: InstanceNorm2d(.|\n)*layer 3: Sync"
    ) as error:
        make_box(module.train(training))
    assert "GroupNorm" in str(error.value.hint)


def test_layers_without_a_rule_are_refused_together() -> None:
    module = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "memory": nn.LSTM(2, 2),
            "bag": nn.EmbeddingBag(3, 2),
            "table": nn.Embedding(3, 2, max_norm=1.0),
            "loose": nn.ParameterList([nn.Parameter(torch.zeros(2))]),
            "normed": weight_norm(nn.Linear(2, 2)),
        }
    )
    with pytest.raises(ModelError) as error:
        check_layers(module)
    for name in ("attention", "memory", "bag", "table", "loose", "normed.parametrizations.weight"):
        assert f"layer {name}: " in str(error.value)
    check_layers(module.requires_grad_(False))
    check_layers(nn.InstanceNorm2d(2, affine=True))


def test_a_forward_that_vmap_cannot_follow_is_refused_by_name() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale if float(x.sum()) > 0 else x * self.scale * 2

    module = nn.Sequential(Sorted())
    inputs, owner, weight = rows()
    with pytest.raises(ModelError, match=r"layer 0: Sorted has no gradient rule"):
        fast_gradients(module, lambda: module(inputs).sum(1), owner, weight)


def test_rows_that_are_not_the_losses_rows_are_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(3, 3))
    inputs, owner, weight = rows()
    with pytest.raises(ModelError, match="layer 0: expected one row per loss"):
        fast_gradients(module, lambda: module(inputs.view(2, 2, 3)).reshape(4, 3).sum(1), owner, weight)
    with pytest.raises(ModelError, match="layer 0: expected one row per loss"):
        fast_gradients(module, lambda: module(inputs[:1]).expand(4, 3).sum(1), owner, weight)


def test_an_input_changed_in_place_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(3, 3))
    inputs, owner, weight = rows()

    def losses() -> Tensor:
        x = inputs.clone()
        out = module[0](x)
        with torch.no_grad():
            x.zero_()
        return out.sum(1)

    with pytest.raises((ModelError, RuntimeError), match=r"in place|inplace"):
        fast_gradients(module, losses, owner, weight)


def test_a_forward_that_is_given_up_contributes_nothing() -> None:
    module = nn.Linear(3, 2)
    inputs, owner, weight = rows()
    box, again = make_box(module), make_box(module)
    module(inputs[:2])
    with torch.no_grad():
        module(inputs)
    box.accumulate(module(inputs).sum(1), owner, weight)
    again.accumulate(module(inputs).sum(1), owner, weight)
    assert torch.allclose(release(box), release(again))


def test_guarantee_losses_without_a_fresh_forward_raise() -> None:
    module = nn.Linear(3, 2)
    inputs, owner, weight = rows()
    box = make_box(module)
    losses = module(inputs).sum(1)
    box.accumulate(losses, owner, weight)
    with pytest.raises(GuaranteeError, match="do not depend on any trainable layer"):
        box.accumulate(losses, owner + 10, weight)
    with torch.no_grad():
        detached = module(inputs).sum(1)
    with pytest.raises(GuaranteeError, match="do not depend on any trainable layer"):
        box.accumulate(detached, owner + 20, weight)


def test_no_plain_weight_gradient_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `.grad` nor the engine's weight formulas run: a hook on the parameter would fire."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(4, 2, 1).requires_grad_(False))
    fired: list[int] = []
    for parameter in module[0].parameters():
        parameter.register_hook(lambda gradient: fired.append(1))
    inputs, owner, weight = rows()
    fast_gradients(module, lambda: module[0](inputs).sum(1), owner, weight)
    assert not fired
    assert all(parameter.grad is None for parameter in module.parameters())


def test_hooks_leave_with_the_box() -> None:
    module = nn.Linear(3, 2)
    source = HookedUnitGradients(module)
    assert len(module._forward_hooks) == 1
    del source
    gc.collect()
    assert len(module._forward_hooks) == 0


class BesideItsLayer(nn.Module):
    """A weight that its layer uses, and the model once more."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.inner(x), self.inner.weight)


class InsteadOfItsLayer(BesideItsLayer):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.other(x), self.inner.weight)


class InsideAnother(BesideItsLayer):
    """The model has a trained tensor of its own, which is served by the generic rule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale)


class InFrontOfAnother(BesideItsLayer):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


class KeptAside(nn.Module):
    """The losses come from what the layer kept, not from what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Hoarding()
        self.other = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return self.other(x) * self.inner.kept


class Hoarding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * self.weight
        return self.kept + 1


OUTSIDE = [BesideItsLayer, InsteadOfItsLayer, InsideAnother, InFrontOfAnother, KeptAside]


@pytest.mark.parametrize("kind", OUTSIDE)
def test_guarantee_a_weight_used_outside_its_layer_is_refused_by_name(kind: type[nn.Module]) -> None:
    module = kind()
    inputs, owner, weight = rows()
    box = make_box(module)
    with pytest.raises(ModelError, match=r"^inner\.weight: used outside the module that owns them"):
        box.accumulate(module(inputs).sum(1), owner, weight)
    assert float(release(box).norm()) < 1e-6


class Around(nn.Module):
    """Uses a tensor of its own beside, before and after the layers that it holds, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.inner, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.inner(x * self.scale) * self.scale).relu_()
        return self.inner(hidden) + self.scale


@pytest.mark.parametrize("parts", [False, True])
def test_a_module_may_use_its_own_tensors_around_others(parts: bool) -> None:
    module = nn.Sequential(nn.Linear(3, 3), Around())
    inputs, owner, weight = rows()

    def losses(index: Tensor) -> Tensor:
        called = checkpointed(module, inputs[index]) if parts else module(inputs[index])
        return called.square().sum(1)

    found = fast_gradients(module, lambda: losses(torch.arange(4)), owner, weight)
    assert_close(found, oracle(module, losses, owner, weight))


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_guarantee_weights_that_a_hook_computes_are_refused_by_name(kind: Any) -> None:
    for name, computed in (
        ("WeightNorm", nn.utils.weight_norm),
        ("SpectralNorm", nn.utils.spectral_norm),
        ("RandomUnstructured", lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
    ):
        arguments = (3, 3) if kind is nn.Linear else (3, 3, 1)
        module = nn.Sequential(computed(kind(*arguments)))
        with pytest.raises(ModelError, match=rf"layer 0: {kind.__name__} with {name} has no gradient rule"):
            make_box(module)
        check_layers(module.requires_grad_(False))


def test_a_tensor_that_the_rule_of_its_layer_does_not_read_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(3, 3))
    module[0].register_parameter("scale", nn.Parameter(torch.ones(3)))
    module[0].register_forward_hook(lambda layer, args, out: out * layer.scale)
    with pytest.raises(ModelError, match="layer 0: the rule of Linear does not read scale"):
        make_box(module)


@pytest.mark.planted
def test_planted_use_outside_is_dropped_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_grads, "refuse_use_outside", lambda *_: None)
    module = BesideItsLayer()
    inputs, owner, weight = rows()
    found = fast_gradients(module, lambda: module(inputs).sum(1), owner, weight)
    expected = oracle(module, lambda index: module(inputs[index]).sum(1), owner, weight)
    with pytest.raises(AssertionError):
        assert_close(found, expected, 0.1)
