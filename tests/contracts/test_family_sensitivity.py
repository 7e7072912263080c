"""For every family and strategy: one unit moves the clipped sum by at most C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_diffusers.diffusion.family import FAMILIES
from dp_diffusers.strategies import strategy_of
from engine_support import make_box, release
from family_support import EXAMPLES, example, images_for, prepared, rows, stir

CLIP = 1e-3  # far below the norm of any gradient: every unit is clipped
ROUNDING = 1e-5
VALUES = (None, float("nan"), float("inf"), -float("inf"), 1e30, 1e-40, 0.0)  # None leaves the image as it is
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 2},
    "attention": {"name": "attention"},
    "bias": {"name": "bias"},
    "full": {"name": "full"},
}
SLOW = [(name, kind) for name in FAMILIES for kind in KINDS]


def _network(tiny_base: Callable[..., Any], name: str, kind: str) -> Any:
    """The family with this strategy in it, nothing of it silent."""
    base = example(tiny_base, name, EXAMPLES[name][0])
    family = prepared(base, label_dropout=0.2)
    strategy_of(KINDS[kind]).apply(family.network)
    stir(family.network)
    return family


def _sum(family: Any, inputs: Any, owner: np.ndarray, kept: np.ndarray) -> torch.Tensor:
    """float64: the clipped sum over the rows of `kept`; no pass at all where there are none."""
    clean, labels, draws = inputs
    box = make_box(family.network, clip_norm=CLIP)
    try:
        if kept.any():
            index = torch.from_numpy(np.flatnonzero(kept))
            counts = np.bincount(owner)[owner]
            some = replace(
                draws,
                timesteps=draws.timesteps[index],
                noise=draws.noise[index],
                drop_label=draws.drop_label[index],
            )
            losses = family.row_losses(clean[index], None if labels is None else labels[index], some)
            weight = torch.from_numpy((1 / counts[kept]).astype(np.float32))
            box.accumulate(losses, torch.from_numpy(owner[kept]), weight)
        return release(box)
    finally:
        box._source.close()  # type: ignore[attr-defined]


def _moves_by_at_most_the_clip(family: Any, sizes: list[int], leaves: int, value: float | None) -> None:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    clean, labels, draws = rows(family, *images_for(family), list(range(len(owner))))
    mine = owner == leaves % len(sizes)
    if value is not None:
        clean[torch.from_numpy(mine)] = value
    inputs = (clean, labels, draws)
    with_unit = _sum(family, inputs, owner, np.ones_like(mine))
    without = _sum(family, inputs, owner, ~mine)
    assert bool(with_unit.isfinite().all())
    if value is None:
        assert float((with_unit - without).norm()) >= 0.9 * CLIP  # the property is not met for want of size
    assert float((with_unit - without).norm()) <= CLIP * (1 + ROUNDING * len(sizes))


def _holds(family: Any, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        leaves=st.integers(0, 2),
        value=st.sampled_from(VALUES),
    )
    def property_(sizes: list[int], leaves: int, value: float | None) -> None:
        _moves_by_at_most_the_clip(family, sizes, leaves, value)

    property_()


@pytest.mark.parametrize("name", FAMILIES)
def test_guarantee_one_unit_moves_the_sum_by_at_most_the_clip(
    tiny_base: Callable[..., Any], name: str
) -> None:
    family = _network(tiny_base, name, "lora")
    _moves_by_at_most_the_clip(family, [1, 3, 2], 1, float("nan"))
    _moves_by_at_most_the_clip(family, [2], 0, 1e30)
    _holds(family, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("name", "kind"), SLOW)
def test_guarantee_whatever_is_trained(tiny_base: Callable[..., Any], name: str, kind: str) -> None:
    _holds(_network(tiny_base, name, kind), 25)


@pytest.mark.planted
def test_planted_a_unit_counted_row_by_row(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = _network(tiny_base, "stable_diffusion", "lora")
    whole = _sum

    def row_by_row(family: Any, inputs: Any, owner: np.ndarray, kept: np.ndarray) -> torch.Tensor:
        return whole(family, inputs, np.arange(len(owner)), kept)

    monkeypatch.setitem(globals(), "_sum", row_by_row)
    with pytest.raises(AssertionError):
        _moves_by_at_most_the_clip(family, [1, 3], 1, None)
