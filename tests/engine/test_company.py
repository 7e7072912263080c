"""What a unit counts for is the same in any company: how its gradient is computed follows from its own rows.

Units whose rows or positions cancel show it: what is left of them is rounding, which is clipped to a
direction of its own, so that k of them move by up to k C where another's presence changes how they are
computed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.engine import conv_weights, ghost_norms, layer_rules, unit_grads
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.layer_rules import applied, rule_for
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import written_out
from engine_support import flat, make_box

OTHERS, ROWS = 32, 3
SIZE = 1e7  # of what an output is multiplied with


def only(module: nn.Module, trained: str) -> nn.Module:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name == trained)
    return module


def plain(out: Tensor) -> Tensor:
    return out


def pooled(out: Tensor) -> Tensor:
    """Hands back a gradient that is one vector for all positions."""
    return out.sum(1)


def in_sequence(out: Tensor) -> Tensor:
    """Hands back a gradient whose positions come first."""
    return out.transpose(0, 1).contiguous().sum(0)


def over_pixels(out: Tensor) -> Tensor:
    return out.sum((2, 3))


LAYERS = {  # small ones are written out, large ones postponed
    "small linear": (lambda: nn.Linear(8, 8, bias=False), (8,), plain),
    "linear": (lambda: nn.Linear(64, 64, bias=False), (64,), plain),
    "linear of positions": (lambda: nn.Linear(96, 96, bias=False), (4, 96), pooled),
    "adapter": (lambda: nn.Linear(64, 8, bias=False), (16, 64), pooled),
    "adapter, sequence first": (lambda: nn.Linear(64, 8, bias=False), (16, 64), in_sequence),
    "few positions": (lambda: nn.Linear(12, 12, bias=False), (5, 12), pooled),
    "bias": (lambda: only(nn.Linear(5, 5), "bias"), (49, 5), pooled),
    "norm": (lambda: nn.LayerNorm(5), (49, 5), in_sequence),
    "small conv": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 6, 6), over_pixels),
    "conv": (lambda: nn.Conv2d(64, 64, 3, padding=1, bias=False), (64, 2, 2), over_pixels),
    "conv of points": (lambda: nn.Conv2d(64, 64, 1, bias=False), (64, 2, 2), over_pixels),
    "conv bias": (lambda: only(nn.Conv2d(8, 8, 1), "bias"), (8, 7, 7), over_pixels),
    "group norm": (lambda: nn.GroupNorm(2, 8), (8, 7, 7), over_pixels),
    "no rule": (lambda: nn.ConvTranspose2d(4, 4, 2, bias=False), (4, 3, 3), over_pixels),
}
LARGE = ["linear", "linear of positions", "conv"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clipped(layer: str, images: Tensor, factors: Tensor | None, owners: list[int]) -> Tensor:
    """The sum of a pass, in units of the clip norm, before noise; factors of the outputs, 1 beyond."""
    torch.manual_seed(0)
    make, _, consumed = LAYERS[layer]
    module = make()
    box = make_box(module, clip_norm=1.0)
    out = consumed(module(images))
    each = torch.ones_like(out)
    if factors is not None:
        each[: len(factors)] = factors
    box.accumulate((out * each).sum(1), torch.tensor(owners), torch.ones(len(owners)), complete=True)
    return flat(box._sum.take()[0])


def outputs(layer: str) -> int:
    make, shape, consumed = LAYERS[layer]
    return consumed(make()(torch.zeros(1, *shape))).shape[1]


def moved_by_one(layer: str, rows: int) -> tuple[float, float]:
    """How far a unit of so many rows moves the sum, and its length without it. The others are alike: one
    image in three rows, whose factors a, b and -(a + b) leave nothing of its gradient."""
    shape = LAYERS[layer][1]
    factors = drawn(2, 2, outputs(layer)) * SIZE
    factors = torch.cat([factors, -factors.sum(0, keepdim=True)]).repeat(OTHERS, 1)
    images = drawn(1, 1, *shape).repeat(OTHERS * ROWS, *[1] * len(shape))
    owners = [each for each in range(OTHERS) for _ in range(ROWS)]
    without = clipped(layer, images, factors, owners)
    with_her = clipped(layer, torch.cat([images, drawn(5, rows, *shape)]), factors, owners + [OTHERS] * rows)
    return float((with_her - without).norm()), float(without.norm())


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("layer", LAYERS)
def test_guarantee_others_count_the_same_beside_a_unit_of_any_rows(layer: str, rows: int) -> None:
    assert moved_by_one(layer, rows)[0] <= 1 + 1e-6


@pytest.mark.planted
@pytest.mark.parametrize("layer", LARGE)
def test_planted_a_way_for_all_that_unequal_rows_decide_is_noticed(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: one unit with another number of rows, and every gradient is written out."""

    def together(rule, module, images, backprop, owners):  # type: ignore[no-untyped-def]
        if owners.fold:
            return rule(module, images, backprop, owners)
        with monkeypatch.context() as patch:
            for name in ("linear_pays", "conv2d_pays"):
                patch.setattr(layer_rules, name, lambda *asked: False)
            return rule(module, images, backprop, owners)

    monkeypatch.setattr(unit_grads, "applied", together)
    assert moved_by_one(layer, 1)[0] > 10


@pytest.mark.planted
def test_planted_a_way_that_the_number_of_units_decides_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: lengths first where there are enough units to pay for them."""
    counts = iter([False, True])  # without her, with her
    monkeypatch.setattr(layer_rules, "linear_pays", lambda *asked: next(counts))
    assert moved_by_one("linear", ROWS)[0] > 10


def test_the_way_of_a_layer_follows_from_shapes_alone() -> None:
    assert ghost_norms.linear_pays(1, 64, 64)
    assert not ghost_norms.linear_pays(64, 8, 240)  # an adapter
    assert not ghost_norms.linear_pays(1000, 64, 64)


@pytest.mark.parametrize("rounded", [-1e-7, 0.0, 1e-7])
def test_guarantee_rounding_of_a_length_moves_the_count_by_next_to_nothing(rounded: float) -> None:
    """Beside other units a length is rounded otherwise; at a step the count would move by one for each."""

    def count(length: float) -> float:
        total = ClippedSum([torch.zeros(1)], 2.0, "flat")
        total.add([0], [torch.tensor([[length]], dtype=torch.float64)], torch.tensor([True]))
        return total.take()[1]

    assert count(2.0 * (1 + rounded)) == pytest.approx(0.5, abs=2e-4)
    assert count(2.001 * (1 + rounded)) == pytest.approx(0.0, abs=2e-4)
    assert [count(length) for length in (0.0, 1.99, 2.01, 1e30)] == [0.5, 0.5, -0.5, -0.5]


@pytest.mark.planted
def test_planted_gradients_as_they_lie_in_memory_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are picked out are contiguous; beside their like they would be added in another order."""
    monkeypatch.setattr(Tensor, "contiguous", lambda self, **how: self)
    assert max(moved_by_one(layer, 1)[0] for layer in ("bias", "norm", "conv bias")) > 10


CONVOLUTIONS = [(4, 4, 32, 1), (1, 32, 14, 1), (16, 16, 16, 1), (4, 16, 32, 2), (16, 4, 8, 1)]


def of_the_first(shape: tuple[int, int, int, int], rows: int, owners: int) -> Tensor:
    """The gradient of the first owner among so many of as many rows."""
    channels, out, side, stride = shape
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, out, 3, stride, padding=1)
    images = drawn(1, 3 * rows, channels, side, side)
    backprop = drawn(2, *layer(images).shape)
    whose = RowOwners.of(torch.arange(owners).repeat_interleave(rows))
    with torch.no_grad():
        got = applied(rule_for(layer), layer, images[: rows * owners], backprop[: rows * owners], whose)
    return written_out(got["weight"])[0]


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_guarantee_the_only_one_of_a_size_is_rounded_as_among_others(
    shape: tuple[int, int, int, int], rows: int
) -> None:
    alone = of_the_first(shape, rows, 1)
    for owners in (2, 3):
        assert torch.equal(of_the_first(shape, rows, owners), alone)


@pytest.mark.planted
def test_planted_a_convolution_of_one_group_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_weights, "_twice", lambda rows: rows)
    differing = [
        not torch.equal(of_the_first(shape, 1, 1), of_the_first(shape, 1, 2)) for shape in CONVOLUTIONS
    ]
    assert any(differing)
