"""Defects of clipping rules, of the count that moves a clip norm, and of augmented copies: each turns red."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from planted_support import toy_images, toy_loop
from torch import Tensor, nn

from adaptive_support import MULTIPLIER, mechanism, noise_of_empty_steps
from dp_diffusers.engine import clipping_rules as rules
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.clipping_rules import ClippingRule
from dp_diffusers.loop.rows import Rows
from dp_diffusers.mechanisms import dpsgd
from engine_support import CLIP, clipped_sum
from unet_support import bounded as within_one
from unet_support import contribution, moved

pytestmark = pytest.mark.planted

LAYERS = 4


def moved_by_one(rule: str) -> float:
    """How far the sum of a network of four layers moves when one of two units leaves."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(LAYERS)))
    rows, owner = torch.randn(2, 3), torch.arange(2)

    def total(kept: list[int]) -> Tensor:
        def losses(index: Tensor) -> Tensor:
            return (net(rows[index]) * 1e4).square().sum(1)

        return clipped_sum(net, losses, [kept], owner, torch.ones(2), clipping=rule)

    return float((total([0, 1]) - total([1])).norm())


def without_check(monkeypatch: pytest.MonkeyPatch, rule: str, factors: Any) -> None:
    """Plants the factors of a rule; the check of factors, which stops them, stands aside."""
    planted = ClippingRule(factors=factors, per_layer=rules.rule_named(rule).per_layer)
    monkeypatch.setitem(rules._RULES, rule, planted)
    monkeypatch.setattr(ClippedSum, "_bounded_factors", lambda self, norms: factors(norms, self.clip_norm))


def bounded(rule: str) -> bool:
    return moved_by_one(rule) <= CLIP * (1 + 1e-5)


def test_planted_each_layer_clipped_to_the_whole_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounded("per_layer")
    without_check(monkeypatch, "per_layer", rules.flat)
    found = moved_by_one("per_layer")
    assert not bounded("per_layer")
    assert found == pytest.approx(math.sqrt(LAYERS) * CLIP, rel=1e-3)


def test_planted_automatic_clipping_without_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gradient brought to length 1, as published, and the noise scaled for C."""
    assert bounded("automatic")
    without_check(monkeypatch, "automatic", lambda norms, clip_norm: 1.0 / (norms + 0.01))
    assert not bounded("automatic")
    assert moved_by_one("automatic") == pytest.approx(1.0, rel=1e-3)


def spent_by_the_boxes_noise(steps: int = 1) -> float:
    """Epsilon of sum and count with the noise that the box really adds, every unit in every step (q = 1)."""
    noise = noise_of_empty_steps(mechanism(), 2_000)
    accountant = PLDAccountant()
    for multiplier in noise.multipliers:
        event = dp_accounting.GaussianDpEvent(multiplier)
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    return float(accountant.get_epsilon(1e-5))


def accounted() -> float:
    """Epsilon of what the plan says: one Gaussian mechanism with the accounted multiplier."""
    accountant = PLDAccountant()
    accountant.compose(mechanism(steps=1).record(MULTIPLIER).event())
    return float(accountant.get_epsilon(1e-5))


@pytest.mark.slow
def test_planted_a_count_that_nobody_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of the gradient not raised for the count beside it."""
    right = spent_by_the_boxes_noise()
    assert right == pytest.approx(accounted(), rel=0.03)
    monkeypatch.setattr(dpsgd, "gradient_noise", lambda noise_multiplier, quantile_noise: noise_multiplier)
    wrong = spent_by_the_boxes_noise()
    print(
        f"epsilon of a step at q = 1: accounted {accounted():.2f}, as built {right:.2f}, planted {wrong:.2f}"
    )
    assert wrong > 1.2 * accounted()


def test_planted_each_augmented_copy_clipped_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a row taken for its copy: a unit is worth as many clip norms as it has copies."""
    copies, units = 4, 6
    loop = toy_loop(toy_images(units), training={"noise_draws": 1, "augmentations": copies})
    assert within_one(moved(loop, range(units), leaves=0))
    assert contribution(loop, 0) > 0.999

    def owner(self: Rows) -> np.ndarray:
        return np.asarray(self.units[self.position] * copies + self.slot)

    monkeypatch.setattr(Rows, "owner", property(owner))
    found = moved(loop, range(units), leaves=0)
    print(f"{copies} copies: the sum moves by {found:.1f} C")
    assert found > 2
