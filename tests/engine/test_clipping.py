"""Clipping rules and the clipped sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dp_diffusers.engine import clipping_rules as rules
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.clipping_rules import ClippingRule, clipping_rules
from dp_diffusers.errors import GuaranteeError, ParameterError

CLIP = 0.7
RULES = sorted(clipping_rules())


def ones(*shape: int) -> Tensor:
    return torch.ones(shape[0], dtype=torch.bool)


@pytest.mark.parametrize("rule", RULES)
@given(
    norms=st.integers(1, 4).flatmap(
        lambda groups: st.lists(st.lists(st.floats(0, 1e150), min_size=groups, max_size=groups), max_size=8)
    ),
    clip=st.floats(1e-6, 1e6),
)
def test_guarantee_factors_keep_every_owner_within_the_clip_norm(
    rule: str, norms: list[list[float]], clip: float
) -> None:
    given_norms = torch.tensor(norms, dtype=torch.float64).reshape(len(norms), len(norms[0]) if norms else 2)
    if not clipping_rules()[rule].per_layer:
        given_norms = given_norms.square().sum(1, keepdim=True).sqrt()
    factors = clipping_rules()[rule].factors(given_norms, clip)
    assert factors.dtype == torch.float64
    assert factors.shape == given_norms.shape
    assert bool((factors >= 0).all())
    assert bool(((factors * given_norms).square().sum(1).sqrt() <= clip * (1 + 1e-12)).all())


def test_flat_leaves_small_gradients_alone() -> None:
    norms = torch.tensor([[0.0], [0.5], [0.7], [1.4]], dtype=torch.float64)
    assert clipping_rules()["flat"].factors(norms, CLIP).flatten().tolist() == [1.0, 1.0, 1.0, 0.5]


def test_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="unknown clipping rule 'flatt'") as error:
        ClippedSum([torch.zeros(2)], CLIP, "flatt")
    assert error.value.hint == "did you mean 'flat'?"
    with pytest.raises(ParameterError, match="clip_norm > 0"):
        ClippedSum([torch.zeros(2)], 0.0, "flat")


@settings(deadline=None)
@given(
    values=st.lists(
        st.sampled_from([0.0, 1e-45, 1e-30, -0.1, 3.0, 1e19, -1e30, 3e38, float("nan"), float("inf")]),
        min_size=6,
        max_size=6,
    )
)
def test_guarantee_one_owner_moves_the_sum_by_at_most_the_clip_norm(values: list[float]) -> None:
    """Two tensors, three owners; the first owner has any values, subnormal, huge or not finite."""
    torch.manual_seed(0)
    wild = torch.tensor(values)
    first = torch.cat([wild[None, :4], torch.randn(2, 4)])
    second = torch.cat([wild[None, 4:], torch.randn(2, 2)])

    def total(keep: slice) -> Tensor:
        box = ClippedSum([torch.zeros(4), torch.zeros(2)], CLIP, "flat")
        ids = [0, 1, 2][keep]
        box.add(ids, [first[keep].clone(), second[keep].clone()], ones(len(ids)))
        return torch.cat([part.flatten() for part in box.take()[0]])

    difference = float((total(slice(0, 3)) - total(slice(1, 3))).norm())
    assert difference <= CLIP * (1 + 1e-5)
    if not bool(wild.isfinite().all()):
        assert difference == 0.0


def test_guarantee_nonfinite_owner_contributes_zero() -> None:
    box = ClippedSum([torch.zeros(2)], CLIP, "flat")
    box.add(
        [1, 2, 3],
        [torch.tensor([[float("nan"), 1.0], [3.0, 4.0], [0.1, 0.1]])],
        torch.tensor([True, True, False]),
    )
    assert torch.allclose(box.take()[0][0], torch.tensor([0.6, 0.8], dtype=torch.float64) * CLIP)


def test_an_owner_over_consecutive_passes_is_clipped_once() -> None:
    box = ClippedSum([torch.zeros(2), torch.zeros(1)], CLIP, "flat")
    box.add([0, 7], [torch.tensor([[0.1, 0.0], [30.0, 0.0]]), None], ones(2))
    box.add([7, 8], [torch.tensor([[0.0, 40.0], [0.0, 0.1]]), torch.tensor([[0.0], [0.2]])], ones(2))
    (first, second), _ = box.take()
    expected = torch.tensor([0.1 + 0.6 * CLIP, 0.1 + 0.8 * CLIP], dtype=torch.float64)
    assert torch.allclose(first, expected)
    assert second.item() == pytest.approx(0.2)


def test_an_owner_bad_in_one_pass_stays_out_in_the_next() -> None:
    box = ClippedSum([torch.zeros(1)], CLIP, "flat")
    box.add([7], [torch.ones(1, 1)], torch.tensor([False]))
    box.add(
        [7, 8],
        [
            torch.ones(2, 1),
        ],
        ones(2),
    )
    assert box.take()[0][0].item() == pytest.approx(CLIP)


def test_guarantee_an_owner_that_comes_back_raises_before_anything_is_added() -> None:
    box = ClippedSum([torch.zeros(1)], CLIP, "flat")
    box.add([0], [torch.full((1, 1), 0.1)], ones(1))
    box.add([1], [torch.full((1, 1), 0.2)], ones(1))
    with pytest.raises(GuaranteeError, match="came back"):
        box.add([2, 0], [torch.full((2, 1), 0.4)], ones(2))
    assert box.take()[0][0].item() == pytest.approx(0.3)
    box.add([0], [torch.full((1, 1), 0.1)], ones(1))
    assert box.take()[0][0].item() == pytest.approx(0.1)


def test_a_rule_that_exceeds_the_clip_norm_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ClippingRule(factors=lambda norms, clip_norm: torch.ones_like(norms))
    monkeypatch.setitem(rules._RULES, "broken", broken)
    box = ClippedSum([torch.zeros(1)], CLIP, "broken")
    box.add([0], [torch.full((1, 1), 5.0)], ones(1))
    with pytest.raises(GuaranteeError, match="lets an owner exceed"):
        box.take()


def test_the_sum_is_not_in_the_repr() -> None:
    box = ClippedSum([torch.zeros(1)], CLIP, "flat")
    box.add([0], [torch.full((1, 1), 0.123)], ones(1))
    assert repr(box) == "ClippedSum(clip_norm=0.7)"
