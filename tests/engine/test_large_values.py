"""Values of a diverged model: who counts is the same whichever way a layer takes, as other units decide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.engine import ghost_norms
from dp_diffusers.engine.postponed import Postponed
from dp_diffusers.mechanisms.dpsgd import CLIP_NORMS
from engine_support import make_box

UNITS = 16
LAYERS = {
    "linear": (lambda: nn.Linear(24, 24, bias=False), (24,)),
    "linear of positions": (lambda: nn.Linear(24, 24, bias=False), (5, 24)),
    "conv": (lambda: nn.Conv2d(8, 8, 3, padding=1, bias=False), (8, 4, 4)),
}
SIZES = {  # of inputs, and what a loss multiplies outputs with
    "ordinary": (1.0, 1.0),
    "inputs beyond the largest": (1e16, 1e-10),
    "far beyond it": (1e19, 1e-19),
    "backprops beyond the largest": (1e-6, 2e36),
    "products at the end of float32": (1e6, 1e32),
}


@pytest.fixture(autouse=True)
def every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of any size are postponed."""
    monkeypatch.setattr(ghost_norms, "_OVERHEAD", -float("inf"))


def inputs(shape: tuple[int, ...], size: float, count: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(count)) * size


def clipped(module: nn.Module, rows: Tensor, owners: list[int], scale: float) -> Tensor:
    """The sum of a pass, in units of the clip norm, before noise."""
    box = make_box(module, clip_norm=1.0)
    losses = (module(rows) * scale).flatten(1).sum(1)
    box.accumulate(losses, torch.tensor(owners), torch.ones(len(owners)))
    (total,), _ = box._sum.take()
    return total


def moved_by_one(layer: str, size: str) -> tuple[float, float]:
    """How far a unit of two rows moves the sum, and its length without it; with it all are written out."""
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    module, (of_inputs, scale) = make(), SIZES[size]
    others, hers = inputs(shape, of_inputs, UNITS), inputs(shape, of_inputs, 1)
    without = clipped(module, others, list(range(UNITS)), scale)
    with_her = clipped(module, torch.cat([others, hers, hers]), [*range(UNITS), 99, 99], scale)
    return float((with_her - without).norm()), float(without.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layer", LAYERS)
def test_guarantee_a_unit_that_changes_the_way_of_a_layer_moves_the_sum_by_one(layer: str, size: str) -> None:
    moved, length = moved_by_one(layer, size)
    assert moved <= 1 + 1e-5
    assert length == 0.0 or length > 0.8 * UNITS  # positive rows and backprops: gradients are much alike


@pytest.mark.parametrize("layer", LAYERS)
def test_large_values_count_where_their_gradient_is_finite(layer: str) -> None:
    assert moved_by_one(layer, "inputs beyond the largest")[1] > 0.8 * UNITS


@pytest.mark.planted
@pytest.mark.parametrize("layer", LAYERS)
def test_planted_units_left_out_by_size_alone_are_noticed(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_those_that_cancel(self: Postponed) -> Postponed:
        for owner in torch.nonzero(self.cancels)[:, 0]:
            self.lengths[owner] = self._alone(owner).norm()
        return self

    monkeypatch.setattr(Postponed, "measured", only_those_that_cancel)
    assert moved_by_one(layer, "inputs beyond the largest")[0] > 10


def moved_at_the_smallest_clip_norm() -> float:
    """In clip norms, by one unit whose clipped backprops lie where float32 is coarse."""
    module, smallest = nn.Linear(512, 512, bias=False), CLIP_NORMS[0]
    length = smallest / (
        0.5001 * 2.0**-149 * 512**0.5
    )  # each backprop just above half of what float32 can hold
    box = make_box(module, clip_norm=smallest)
    outputs = module(torch.full((1, 512), length / 512**0.5))
    box.accumulate(outputs.sum(1) * 1e-3, torch.tensor([0]), torch.ones(1))
    (total,), _ = box._sum.take()
    return float(total.norm()) / smallest


def test_guarantee_one_unit_moves_the_sum_by_the_smallest_clip_norm_at_most() -> None:
    assert moved_at_the_smallest_clip_norm() <= 1 + 1e-6


@pytest.mark.planted
def test_planted_factors_that_leave_float32_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postponed, "_scale", lambda self, weights: torch.ones((), dtype=torch.float64))
    assert moved_at_the_smallest_clip_norm() > 1.9


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_guarantee_a_unit_of_empty_inputs_and_large_backprops_leaves_the_others_be(clipping: str) -> None:
    """Its gradient is nothing, and so is what it is clipped to, also where a clip norm is the smallest."""
    torch.manual_seed(0)
    module, smallest = nn.Linear(512, 512, bias=False), CLIP_NORMS[0]
    rows, factors = torch.randn(2, 512), torch.tensor([[1e10], [1.0]])
    rows[0] = 0.0
    sums = []
    for owners in ([0, 1], [1]):
        box = make_box(module, clip_norm=smallest, clipping=clipping)
        losses = (module(rows[owners]) * factors[owners]).sum(1)
        box.accumulate(losses, torch.tensor(owners), torch.ones(len(owners)))
        sums.append(box._sum.take()[0][0] / smallest)
    assert float(sums[1].norm()) > 0.9
    assert float((sums[0] - sums[1]).norm()) < 1e-6
