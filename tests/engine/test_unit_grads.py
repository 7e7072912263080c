"""Captures: what is refused by name, and what must leave no trace."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dp_diffusers.engine.layer_checks import check_layers
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import GuaranteeError, ModelError
from engine_support import fast_gradients, make_box, release


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
