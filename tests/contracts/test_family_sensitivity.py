"""For every family, strategy and clipping rule: one unit moves a release by at most what is accounted for.

The fast tests see every family, and every rule and strategy on one of them; the slow ones see all of them
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sensitivity_support import COUNT_NOISE, MULTIPLIER, Case, check, check_some, moves
from torch import Tensor

from dp_diffusers.diffusion.family import FAMILIES
from dp_diffusers.engine import clipping_rules as rules
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.errors import ModelError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.privacy.events import CLIPPINGS
from dp_diffusers.strategies import STRATEGIES
from family_support import EXAMPLES, apply_strategy, example, prepared, stir

RANK = {"rank": 2}
OPTIONS: dict[str, dict[str, Any]] = {"lora": RANK, "frozen_a": RANK, "sapf": RANK}
WITH_A_TABLE = ("pixel", "latent", "dit")  # of classes; the others read prompts
ALL = [
    (name, kind, rule)
    for name in FAMILIES
    for kind in STRATEGIES
    for rule in CLIPPINGS
    if kind != "embedding" or name in WITH_A_TABLE
]
ONE_FAMILY = "dit"
OF_ONE_FAMILY = [(kind, "flat") for kind in STRATEGIES if kind != "lora"] + [
    ("lora", rule) for rule in CLIPPINGS if rule != "flat"
]
OTHER_EXAMPLES = [(name, which) for name in FAMILIES for which in range(1, len(EXAMPLES[name]))]
Make = Callable[..., Any]


@pytest.fixture
def trained(tiny_base: Callable[..., Any]) -> Make:
    """Makes a family with a strategy in it, nothing of it silent."""

    def make(name: str, kind: str, which: int = 0) -> Any:
        family = prepared(example(tiny_base, name, EXAMPLES[name][which]), label_dropout=0.2)
        apply_strategy({"name": kind, **OPTIONS.get(kind, {})}, family.network)
        stir(family.network)
        return family

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_guarantee_one_unit_moves_the_sum_by_at_most_the_clip(trained: Make, name: str) -> None:
    family = trained(name, "lora")
    check(family, "flat", Case(sizes=(1, 3, 2), leaves=1, value=math.nan))
    check(family, "flat", Case(sizes=(2,), value=1e30))
    check_some(family, "flat", 2, name)


@pytest.mark.parametrize(("kind", "rule"), OF_ONE_FAMILY)
def test_guarantee_by_every_rule_and_with_every_strategy(trained: Make, kind: str, rule: str) -> None:
    family = trained(ONE_FAMILY, kind)
    check(family, rule, Case(sizes=(1, 3), leaves=1, rows_per_pass=3))
    if rule != "flat":
        check(family, rule, Case(sizes=(2, 1), value=math.nan, whole=False))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("name", "kind", "rule"), ALL)
def test_guarantee_whatever_is_trained(trained: Make, name: str, kind: str, rule: str) -> None:
    check_some(trained(name, kind), rule, 5, f"{name}-{kind}-{rule}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "which"), OTHER_EXAMPLES)
def test_guarantee_of_other_models_of_a_family(trained: Make, name: str, which: int) -> None:
    family = trained(name, "lora", which)
    for rule in CLIPPINGS:
        check_some(family, rule, 3, f"{name}-{which}-{rule}")


@pytest.mark.slow
def test_families_without_a_table_of_classes_refuse_to_train_one(trained: Make) -> None:
    for name in set(FAMILIES) - set(WITH_A_TABLE):
        with pytest.raises(ModelError, match="has none"):
            trained(name, "embedding")


def turns_red(family: Any, rule: str, case: Case) -> float:
    """How far the release moves, after the property was seen to fail."""
    with pytest.raises(AssertionError):
        check(family, rule, case)
    return float(moves(family, rule, case)[0].norm())


@pytest.mark.planted
@pytest.mark.parametrize("rule", CLIPPINGS)
def test_planted_a_unit_clipped_row_by_row(trained: Make, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, rows = PrivateGradient.accumulate, iter(range(1_000_000))

    def row_by_row(self: PrivateGradient, losses: Tensor, owner: Tensor, weight: Tensor) -> None:
        whole(self, losses, torch.tensor([next(rows) for _ in owner]), weight)

    monkeypatch.setattr(PrivateGradient, "accumulate", row_by_row)
    assert 1.5 < turns_red(trained(ONE_FAMILY, "lora"), rule, Case(sizes=(3,))) < 3.001


def shared_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone is scaled as the longest is: no unit is too long, and each decides on all the others."""

    def factors(norms: Tensor, clip_norm: float) -> Tensor:
        return (clip_norm / norms.max().clamp(min=clip_norm)).expand_as(norms)

    monkeypatch.setitem(rules._RULES, "flat", rules.ClippingRule(factors=factors))


def scaled_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is brought to the clip norm, and nothing before it."""
    whole = ClippedSum.take

    def take(self: ClippedSum) -> tuple[list[Tensor], float]:
        totals, surplus = whole(self)
        length = math.sqrt(sum(float(total.square().sum()) for total in totals))
        return [total * min(1.0, self.clip_norm / max(length, 1e-30)) for total in totals], surplus

    monkeypatch.setattr(ClippedSum, "_bounded_factors", lambda self, norms: torch.ones_like(norms))
    monkeypatch.setattr(ClippedSum, "take", take)


@pytest.mark.planted
@pytest.mark.parametrize("plant", [shared_factor, scaled_sum])
def test_planted_units_that_are_scaled_after_summing(
    trained: Make, plant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    ordinary = Case(sizes=(1, 1, 1), leaves=1)
    assert turns_red(trained(ONE_FAMILY, "lora"), "flat", ordinary) < 1, "noticed by who else moves"
    assert turns_red(trained("stable_diffusion_3", "lora"), "flat", Case(sizes=(1, 1, 1), value=1e4)) > 1.5


@pytest.mark.planted
def test_planted_a_count_beside_a_sum_with_the_whole_noise(
    trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DPSGD, "_gradient_noise", lambda self, noise_multiplier: noise_multiplier)
    moved = turns_red(trained(ONE_FAMILY, "lora"), "adaptive", Case(sizes=(3,)))
    assert moved == pytest.approx(math.hypot(1, MULTIPLIER / (2 * COUNT_NOISE)), rel=1e-3)


@pytest.mark.planted
def test_planted_a_count_of_ones_that_sees_every_unit(trained: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shift by a half an unclipped unit counts twice as much; one that is not finite must not."""
    whole = ClippedSum.take

    def take(self: ClippedSum) -> tuple[list[Tensor], float]:
        units = self._closed | set(self._pending.ids if self._pending else ())
        totals, surplus = whole(self)
        return totals, surplus + 0.5 * len(units)

    monkeypatch.setattr(ClippedSum, "take", take)
    family = trained(ONE_FAMILY, "lora")
    assert turns_red(family, "adaptive", Case(sizes=(2,), clip_norm=1e3)) > 1.4
    assert turns_red(family, "adaptive", Case(sizes=(2,), value=math.nan)) > 0.7
