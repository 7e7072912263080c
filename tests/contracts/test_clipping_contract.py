"""What every clipping rule owes: one unit moves what a step releases by at most the claimed sensitivity.

What a step releases is the sum and, with adaptive clipping, the count of unclipped units: each is taken in
units of its own noise, so that the two together are one Gaussian mechanism of the accounted multiplier.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.clipping_rules import clipping_rules
from dp_diffusers.privacy.events import CLIPPINGS
from dp_diffusers.privacy.quantile_noise import gradient_noise
from unet_support import CLIP as UNET_CLIP
from unet_support import clipped_sum, new_loop

RULES = sorted(clipping_rules())
SHAPES, GROUPS = ((3,), (2, 2), (1,)), (0, 1, 1)
SIZE = 8
CLIP, MULTIPLIER, COUNT_NOISE = 0.7, 1.3, 0.9
VALUES = [0.0, 1e-45, 1e-30, -0.1, 0.02, 3.0, 1e19, -1e30, 3e38, math.nan, math.inf, -math.inf]
WILD = st.lists(st.sampled_from(VALUES), min_size=SIZE, max_size=SIZE)
SOME = settings(deadline=None, max_examples=60)


def parts(flat: Tensor) -> list[Tensor | None]:
    """`[U, 8]` as the gradients of three tensors."""
    sizes = [math.prod(shape) for shape in SHAPES]
    return [part.reshape(-1, *shape) for part, shape in zip(torch.split(flat.clone(), sizes, 1), SHAPES)]


def released(rule: str, passes: list[tuple[list[int], Tensor]]) -> Tensor:
    """What a step releases, in units of the noise that it gets: `[9]`, or `[8]` without a count."""
    groups = GROUPS if clipping_rules()[rule].per_layer else None
    box = ClippedSum([torch.zeros(shape) for shape in SHAPES], CLIP, rule, groups)
    for ids, gradients in passes:
        box.add(ids, parts(gradients), torch.ones(len(ids), dtype=torch.bool))
    totals, surplus = box.take()
    total = torch.cat([part.flatten() for part in totals]) / CLIP
    if rule != "adaptive":
        return total / MULTIPLIER
    count = torch.tensor([surplus / COUNT_NOISE], dtype=torch.float64)
    return torch.cat([total / gradient_noise(MULTIPLIER, COUNT_NOISE), count])


def with_unit(wild: Tensor, cuts: int, others: int, joined: bool) -> list[tuple[list[int], Tensor]]:
    """A step of `others` units in one pass, beside a unit whose rows span `cuts` passes, if it is there."""
    generator = torch.Generator().manual_seed(others)
    rest = (
        torch.randn(others, SIZE, generator=generator) * torch.logspace(-3, 3, max(others, 1))[:others, None]
    )
    ids = list(range(others))
    if not joined:
        return [(ids, rest)] if others else []
    share = wild[None] / cuts
    first = [([*ids, 99], torch.cat([rest, share]))]
    return first + [([99], share)] * (cuts - 1)


@pytest.mark.parametrize("rule", RULES)
@SOME
@given(wild=WILD, cuts=st.integers(1, 3), others=st.integers(0, 4))
def test_guarantee_one_unit_moves_a_release_by_at_most_its_noise_multiplier(
    rule: str, wild: list[float], cuts: int, others: int
) -> None:
    unit = torch.tensor(wild)
    whole, without = (released(rule, with_unit(unit, cuts, others, there)) for there in (True, False))
    moved = float((whole - without).norm())
    assert moved <= (1 + 1e-5) / MULTIPLIER
    if not bool(unit.isfinite().all()):
        assert moved == 0.0, "a unit that is not finite adds nothing, to the count neither"


@pytest.mark.parametrize("rule", RULES)
@SOME
@given(one=WILD, other=WILD)
def test_guarantee_another_unit_in_its_place_moves_a_release_by_at_most_twice_that(
    rule: str, one: list[float], other: list[float]
) -> None:
    before, after = (released(rule, with_unit(torch.tensor(unit), 1, 2, True)) for unit in (one, other))
    assert float((before - after).norm()) <= 2 * (1 + 1e-5) / MULTIPLIER


@pytest.mark.parametrize("rule", RULES)
def test_the_claimed_sensitivity_is_reached_and_not_more_than_needed(rule: str) -> None:
    large = torch.full((SIZE,), 1e4)
    moved = float(released(rule, with_unit(large, 2, 0, True)).norm())
    assert moved == pytest.approx(1 / MULTIPLIER, rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_order_and_passes_do_not_change_a_release(rule: str) -> None:
    gradients = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(1)) * 2
    ids = list(range(6))
    whole = released(rule, [(ids, gradients)])
    halves = released(rule, [(ids[3:][::-1], gradients[3:].flip(0)), (ids[:3], gradients[:3])])
    assert torch.allclose(whole, halves, rtol=1e-9, atol=1e-12)


def test_an_empty_step_releases_nothing_of_its_own() -> None:
    for rule in RULES:
        assert not released(rule, []).any()


def test_the_mechanism_offers_the_rules_of_the_engine() -> None:
    assert sorted(CLIPPINGS) == RULES


def test_a_bound_for_each_group_alone_would_be_noticed(monkeypatch: Any) -> None:
    """The contract can fail: each group clipped to C moves a release by the root of the groups."""
    rule = clipping_rules()["per_layer"]
    assert rule.per_layer
    monkeypatch.setattr(ClippedSum, "_bounded_factors", lambda self, norms: CLIP / norms.clamp(min=CLIP))
    moved = float(released("per_layer", with_unit(torch.full((SIZE,), 1e4), 1, 0, True)).norm())
    assert moved == pytest.approx(math.sqrt(2) / MULTIPLIER, rel=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "adaptive"])
def test_guarantee_a_unit_of_a_unet_with_adapters_moves_the_sum_by_at_most_the_clip_norm(
    rule: str, tiny_base: Any, tiny_images: Any
) -> None:
    images, labels = (part[:5] for part in tiny_images)
    loop = new_loop(tiny_base(), {"name": "lora", "rank": 2}, images, labels, draws=2)

    def total(units: list[int]) -> Tensor:
        return clipped_sum(loop, units, clipping=rule)

    moved = float((total([0, 1, 2, 3, 4]) - total([1, 2, 3, 4])).norm()) / UNET_CLIP
    assert 0.5 < moved <= 1 + 1e-5
