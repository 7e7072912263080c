"""Rows that meet in the graph: refused also where the engine was given parameters, not a module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_diffusers.engine import unit_grads
from dp_diffusers.errors import ModelError
from engine_support import CLIP, make_box, release

ROWS = 16


class Functional(nn.Module):
    """Batch normalisation that is no layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


MIXING: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm1d(4),
    "without averages": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "frozen": lambda: nn.BatchNorm1d(4).requires_grad_(False),
    "with averages of each row": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
    "functional": Functional,
}
APART: dict[str, Callable[[], nn.Module]] = {
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()
    ),
    "batch norm at rest": lambda: nn.BatchNorm1d(4).eval(),
}


def network(extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), extra, nn.Linear(4, 1))


def clipped(net: nn.Module, given: object, rows: Tensor) -> Tensor:
    images = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    images[0] *= 1000
    box = make_box(given)  # type: ignore[arg-type]
    box.accumulate((net(images[rows]) - 1).square().sum(1) * 100, rows, torch.ones(len(rows)))
    return release(box)


def moved(extra: Callable[[], nn.Module]) -> float:
    """How far the sum moves, in clip norms, when the first owner leaves; the box has parameters alone."""
    sums = [clipped(net := network(extra()), net.parameters(), torch.arange(first, ROWS)) for first in (0, 1)]
    return float((sums[0] - sums[1]).norm()) / CLIP


@pytest.mark.parametrize("extra", MIXING.values(), ids=MIXING.keys())
def test_guarantee_batch_normalisation_is_refused_where_parameters_are_given(
    extra: Callable[[], nn.Module],
) -> None:
    with pytest.raises(ModelError, match="batch normalisation in training mode mixes the units") as error:
        moved(extra)
    assert "GroupNorm" in str(error.value.hint)


@pytest.mark.parametrize("extra", APART.values(), ids=APART.keys())
def test_layers_that_keep_rows_apart_are_left_alone(extra: Callable[[], nn.Module]) -> None:
    assert moved(extra) <= 1 + 1e-5


def test_guarantee_batch_normalisation_without_a_layer_is_refused() -> None:
    net = network(Functional())
    with pytest.raises(ModelError, match="batch normalisation in training mode mixes the units"):
        clipped(net, net, torch.arange(ROWS))


def test_guarantee_a_first_pass_of_one_row_does_not_settle_it() -> None:
    net = network(nn.Sequential(nn.Unflatten(1, (2, 2)), Functional(), nn.Flatten()))
    box, owner = make_box(net), torch.arange(ROWS)
    box.accumulate(net(torch.randn(1, 3)).sum(1), owner[:1], torch.ones(1))
    with pytest.raises(ModelError, match="batch normalisation in training mode mixes the units"):
        box.accumulate(net(torch.randn(ROWS, 3)).sum(1), owner + 1, torch.ones(ROWS))


def test_a_model_that_is_put_into_training_mode_later_is_refused_then() -> None:
    net = network(nn.BatchNorm1d(4)).eval()
    box, owner, weight = make_box(net.parameters()), torch.arange(ROWS), torch.ones(ROWS)
    box.accumulate(net(torch.randn(ROWS, 3)).sum(1), owner, weight)
    net.train()
    with pytest.raises(ModelError, match="batch normalisation in training mode"):
        box.accumulate(net(torch.randn(ROWS, 3)).sum(1), owner + ROWS, weight)


class AsItIs(nn.Module):
    """Batch normalisation that is no layer, in training mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, torch.zeros(4), torch.ones(4), training=self.training)


def test_guarantee_so_is_one_whose_module_was_looked_at_in_another_mode() -> None:
    net = network(AsItIs()).eval()
    box, owner, weight = make_box(net), torch.arange(ROWS), torch.ones(ROWS)
    box.accumulate(net(torch.randn(ROWS, 3)).sum(1), owner, weight)
    net[1].train()
    with pytest.raises(ModelError, match="batch normalisation in training mode"):
        box.accumulate(net(torch.randn(ROWS, 3)).sum(1), owner + ROWS, weight)


@pytest.mark.planted
def test_planted_batch_normalisation_moves_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_grads, "refuse_mixing", lambda losses: None)
    assert moved(MIXING["batch norm"]) > 5
