"""Blocks of gradients, beside norms and weighted sums of each gradient on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dp_diffusers.engine import blocks as module
from dp_diffusers.engine.blocks import blocks
from dp_diffusers.engine.clipping import ClippedSum

OWNERS, CLIP = 6, 0.5
SHAPES = [(3, 5), (5, 3), (7,), (), (2, 3, 1, 1), (4, 4), (40, 3), (2, 2)]
GROUPS = [0, 0, 0, 1, 1, 2, 2, 2]


def gradients() -> list[Tensor | None]:
    """Some with rows and columns swapped in memory, one missing, one in float64, one infinite for owner 4."""
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor | None] = [torch.randn(OWNERS, *shape, generator=generator) for shape in SHAPES]
    for place in (1, 6):
        found[place] = found[place].mT.contiguous().mT  # type: ignore[union-attr]
    found[2], found[5] = None, found[5].double()  # type: ignore[union-attr]
    found[7][4, 0, 0] = torch.inf  # type: ignore[index]
    return found


def right(factors: Tensor) -> list[Tensor]:
    """The weighted sum of each parameter's gradients, owner 4 left out."""
    sums = []
    for shape, group, gradient in zip(SHAPES, GROUPS, gradients()):
        total = torch.zeros(shape, dtype=torch.float64)
        for owner in (0, 1, 2, 3, 5):
            if gradient is not None:
                total += factors[owner, group] * gradient[owner].double()
        sums.append(total)
    return sums


def lengths() -> Tensor:
    """`[U, G]`, of owner 4 too."""
    squares = torch.zeros(OWNERS, 3, dtype=torch.float64)
    for group, gradient in zip(GROUPS, gradients()):
        if gradient is not None:
            squares[:, group] += gradient.double().reshape(OWNERS, -1).square().sum(1)
    return squares.sqrt()


def sums_are_right(most: int) -> bool:
    """Whether the clipped sum of these gradients is that of the oracle, with blocks of so many values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_VALUES_PER_BLOCK", most)
        box = ClippedSum([torch.zeros(shape) for shape in SHAPES], CLIP, "per_layer", GROUPS)
        box.add(list(range(OWNERS)), gradients(), torch.ones(OWNERS, dtype=torch.bool))
        found, _ = box.take()
    norms = lengths()
    factors = (CLIP / 3**0.5 / norms).clamp(max=1.0)
    assert norms[:, 0].min() > CLIP, "there is something to clip"
    return all(torch.allclose(one, two, rtol=1e-12, atol=0) for one, two in zip(found, right(factors)))


@pytest.mark.parametrize("most", [1, 20, 100, 250, 1 << 17])
def test_guarantee_sums_by_blocks_are_those_of_each_gradient(most: int) -> None:
    assert sums_are_right(most)


@pytest.mark.parametrize("most", [1, 20, 100, 1 << 17])
def test_guarantee_every_value_is_in_one_block(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VALUES_PER_BLOCK", most)
    given, seen = gradients(), torch.zeros(OWNERS, len(SHAPES), dtype=torch.int64)
    for block in blocks(given, GROUPS):
        assert block.values.dtype == torch.float64
        assert {GROUPS[place] for place in range(*block.places.indices(len(SHAPES)))} == {block.group}
        assert block.values.numel() <= max(most, 120)
        seen[block.owners, block.places] += 1
    assert torch.equal(seen, torch.tensor([[g is not None for g in given]] * OWNERS).long())


def test_blocks_of_nothing() -> None:
    assert list(blocks([], [])) == []
    assert list(blocks([None, None], [0, 0])) == []


@pytest.mark.planted
@pytest.mark.parametrize("defect", ["groups side by side", "never swapped back"])
def test_planted_blocks(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if defect == "groups side by side":
        monkeypatch.setattr(
            "dp_diffusers.engine.clipping.blocks", lambda found, _: blocks(found, [0] * len(found))
        )
    else:
        swapped = module.as_stored
        monkeypatch.setattr(
            "dp_diffusers.engine.clipping.as_stored",
            lambda total, gradient: swapped(total, gradient).reshape(total.shape),
        )
    assert not sums_are_right(1 << 17)
