"""What a unit counts for is the same in any company: how its gradient is computed follows from its own rows.

Units whose rows or positions cancel show it: what is left of them is rounding, which is clipped to a
direction of its own, so that k of them move by up to k C where another's presence changes how they are
computed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.engine import ghost_norms, layer_rules, unit_grads
from dp_diffusers.engine.clipping import ClippedSum
from engine_support import make_box

OTHERS, ROWS = 32, 6
LAYERS = {  # small ones are written out, large ones postponed
    "small linear": (lambda: nn.Linear(8, 8, bias=False), (8,)),
    "linear": (lambda: nn.Linear(64, 64, bias=False), (64,)),
    "linear of positions": (lambda: nn.Linear(96, 96, bias=False), (4, 96)),
    "small conv": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 6, 6)),
    "conv": (lambda: nn.Conv2d(64, 64, 3, padding=1, bias=False), (64, 2, 2)),
    "conv of points": (lambda: nn.Conv2d(64, 64, 1, bias=False), (64, 2, 2)),
    "no rule": (lambda: nn.ConvTranspose2d(4, 4, 2, bias=False), (4, 3, 3)),
}
LARGE = ["linear", "linear of positions", "conv"]


def drawn(seed: int, rows: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def clipped(layer: str, images: Tensor, sign: Tensor, owners: list[int]) -> Tensor:
    """The sum of a pass, in units of the clip norm, before noise."""
    torch.manual_seed(0)
    module = LAYERS[layer][0]()
    box = make_box(module, clip_norm=1.0)
    losses = module(images).flatten(1).sum(1) * sign
    box.accumulate(losses, torch.tensor(owners), torch.ones(len(owners)), complete=True)
    return box._sum.take()[0][0]


def moved_by_one(layer: str, rows: int) -> tuple[float, float]:
    """How far a unit of so many rows moves the sum, and its length without it. The others are alike: three
    rows, and the same three subtracted."""
    shape = LAYERS[layer][1]
    half = drawn(7, ROWS // 2, shape) * 1e6
    images, sign = torch.cat([half, half]).repeat(OTHERS, *[1] * len(shape)), torch.ones(OTHERS, ROWS)
    sign[:, ROWS // 2 :] = -1.0
    owners = [each for each in range(OTHERS) for _ in range(ROWS)]
    without = clipped(layer, images, sign.flatten(), owners)
    hers = drawn(5, rows, shape)
    signs = torch.cat([sign.flatten(), torch.ones(rows)])
    with_her = clipped(layer, torch.cat([images, hers]), signs, owners + [OTHERS] * rows)
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
