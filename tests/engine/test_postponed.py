"""Postponed gradients: lengths and weighted sums of owners' gradients that are never written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_layer_rules import CASES, OWNERS, ROWS, case
from torch import Tensor, nn

from dp_diffusers.engine import ghost_norms, layer_rules, postponed
from dp_diffusers.engine.clipping_rules import clipping_rules
from dp_diffusers.engine.ghost_norms import linear_lengths
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import Postponed
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import GuaranteeError
from engine_support import CLIP, assert_close, clipped_sum, make_box, oracle, release

FOLDED = ["one row each", "folded", "all one owner"]
NAMES = [
    name
    for name in CASES
    if name.startswith(("linear", "conv", "in place"))
    and "generic" not in name
    and name != "linear one feature"
]


@pytest.fixture(autouse=True)
def every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of any size are postponed."""
    monkeypatch.setattr(ghost_norms, "_OVERHEAD", -float("inf"))


def found_and_expected(name: str, owners: str) -> list[tuple[Postponed, Tensor]]:
    """The postponed gradients of a case, each with those of batches of one (float64)."""
    module, losses = case(name)
    owner, weight = OWNERS[owners], torch.rand(ROWS) + 0.5
    source = HookedUnitGradients(module)
    found = source.compute(losses(torch.arange(ROWS)), weight, RowOwners.of(owner))
    source.close()
    expected = oracle(module, losses, owner, weight)
    return [(got, want) for got, want in zip(found, expected, strict=True) if isinstance(got, Postponed)]


def check(found: Postponed, expected: Tensor) -> None:
    """What is written out, lengths, and weighted sums; no length is below what one owner adds."""
    count = len(expected)
    assert_close([found.written_out()], [expected])
    weights = torch.linspace(0.3, 1.0, count, dtype=torch.float64)
    assert_close([found.weighted_sum(weights)], [torch.tensordot(weights, expected, 1)])
    lengths = expected.flatten(1).norm(dim=1)
    assert bool(((found.lengths - lengths).abs() <= 1e-4 * lengths.max()).all())
    for owner, length in enumerate(found.lengths):
        alone = found.weighted_sum(torch.eye(count, dtype=torch.float64)[owner])
        assert float(alone.norm()) <= float(length) * (1 + 1e-6)
    one = found.of(torch.tensor([count - 1]))
    assert_close(
        [one.written_out(), one.weighted_sum(torch.ones(1, dtype=torch.float64))[None]], [expected[-1:]] * 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("owners", FOLDED)
@pytest.mark.parametrize("name", NAMES)
def test_guarantee_every_postponed_gradient_equals_batch_of_one(name: str, owners: str) -> None:
    test_guarantee_a_postponed_gradient_equals_batch_of_one(name, owners)


@pytest.mark.parametrize(("name", "owners"), [("linear 3d", "folded"), ("conv stride", "folded")])
def test_guarantee_a_postponed_gradient_equals_batch_of_one(name: str, owners: str) -> None:
    pairs = found_and_expected(name, owners)
    assert len(pairs) == (0 if "groups" in name or "depthwise" in name else 2 if "in place" in name else 1)
    for found, expected in pairs:
        check(found, expected)


@pytest.mark.parametrize("owners", ["unequal", "scattered"])
def test_owners_with_unequal_rows_are_written_out(owners: str) -> None:
    assert not found_and_expected("conv 3x3", owners)


def test_a_layer_used_twice_and_a_shared_weight_are_written_out() -> None:
    assert not found_and_expected("shared", "folded")


def test_a_block_of_owners_is_summed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postponed, "BLOCK", 2)
    for name in ("linear 3d", "conv stride"):
        for found, expected in found_and_expected(name, "folded"):
            check(found, expected)


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, stride=2)
    return nn.Sequential(first, nn.GroupNorm(2, 6), nn.SiLU(), second, nn.Flatten(2), nn.Linear(4, 3))


def problem(bad: float | None = None, scale: float = 1.0) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """12 rows, through convolutions and a linear layer; `bad` is a pixel of row 5."""
    net = network()
    images = torch.randn(12, 3, 5, 5)
    if bad is not None:
        images[5, 0, 2, 2] = bad
    return net, lambda index: net(images[index]).square().flatten(1).sum(1) * scale


OWNER, WEIGHT = torch.arange(6).repeat_interleave(2), torch.full((12,), 0.5)
WHOLE = [list(range(12))]
SPLITS = [WHOLE, [[0, 1, 2], [3, 4, 5, 6], [7, 8], [9, 10, 11]], [[row] for row in range(12)]]


def written_sum(monkeypatch: pytest.MonkeyPatch, *args: Any, **changes: Any) -> Tensor:
    """The clipped sum when no gradient is postponed."""
    with monkeypatch.context() as patch:
        patch.setattr(ghost_norms, "_OVERHEAD", float("inf"))
        return clipped_sum(*args, **changes)


@pytest.mark.parametrize("rule", sorted(set(clipping_rules()) - {"adaptive"}))
def test_guarantee_the_clipped_sum_is_that_of_written_gradients(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, losses = problem()
    expected = written_sum(monkeypatch, net, losses, WHOLE, OWNER, WEIGHT, clipping=rule)
    for passes in SPLITS:
        found = clipped_sum(net, losses, passes, OWNER, WEIGHT, clipping=rule)
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_guarantee_one_owner_moves_a_postponed_sum_by_at_most_the_clip_norm() -> None:
    for value in (None, 1e4, 1e19, 1e30, 1e-40, float("nan"), float("inf")):
        net, losses = problem(bad=value, scale=50)
        rest = [row for row in range(12) if OWNER[row] != 2]
        whole, without = (clipped_sum(net, losses, [rows], OWNER, WEIGHT) for rows in (WHOLE[0], rest))
        moved = float((whole - without).norm())
        assert moved <= CLIP * (1 + 1e-5)
        assert moved >= (0.99 * CLIP if value is None else 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_guarantee_a_nonfinite_owner_adds_nothing_to_a_postponed_sum(bad: float) -> None:
    net, losses = problem(bad)
    rest = [row for row in range(12) if OWNER[row] != 2]
    without = clipped_sum(net, losses, [rest], OWNER, WEIGHT)
    for passes in (WHOLE, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]]):
        found = clipped_sum(net, losses, passes, OWNER, WEIGHT)
        assert float((found - without).norm() / without.norm()) < 1e-5


def test_huge_finite_gradients_are_clipped_not_lost() -> None:
    net, losses = problem(scale=1e30)
    assert float(clipped_sum(net, losses, [[0, 1]], OWNER, WEIGHT).norm()) == pytest.approx(CLIP, rel=1e-5)


def test_under_autocast_the_products_are_of_float32() -> None:
    net, losses = problem()

    def cast(index: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses(index).float()

    source = HookedUnitGradients(net)
    found = source.compute(cast(torch.arange(12)), WEIGHT, RowOwners.of(OWNER))
    source.close()
    pairs = zip(found, oracle(net, cast, OWNER, WEIGHT), strict=True)
    for got, want in ((got, want) for got, want in pairs if isinstance(got, Postponed)):
        assert got.written_out().dtype == torch.float32
        assert_close(
            [got.written_out(), got.weighted_sum(torch.ones(6).double())[None]],
            [want, want.sum(0)[None]],
            5e-2,
        )
        written = got.written_out().double().flatten(1).norm(dim=1)
        assert torch.allclose(got.lengths, written, rtol=1e-4)


def test_the_count_of_unclipped_owners_is_that_of_written_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What adaptive clipping follows."""
    net, losses = problem()

    def surplus(clip_norm: float) -> float:
        box = make_box(net, clip_norm=clip_norm)
        box.accumulate(losses(torch.arange(12)), OWNER, WEIGHT)
        return box._sum.take()[1]

    found = [surplus(clip_norm) for clip_norm in (0.1, 5.5, 50.0)]
    monkeypatch.setattr(ghost_norms, "_OVERHEAD", float("inf"))
    assert found == [surplus(clip_norm) for clip_norm in (0.1, 5.5, 50.0)]
    assert found[0] == -3.0
    assert found[2] == 3.0


def test_products_of_less_than_float32_are_never_postponed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths in float64 would not be those of what is added."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert not found_and_expected("linear 3d", "folded")
    assert not found_and_expected("conv 3x3", "folded")


def cancelling() -> Postponed:
    """A linear layer whose positions cancel in all but one part in 1e7: float32 sums of them are mostly
    rounding."""
    torch.manual_seed(0)
    layer, positions = nn.Linear(64, 64, bias=False), 64
    outgoing = torch.randn(1, positions, 64)
    outgoing[:, 1::2] = -outgoing[:, ::2]
    incoming = torch.rand(1, positions // 2, 64).repeat_interleave(2, 1)
    incoming[:, 1::2] *= 1 + 2.0**-23
    gradient = layer_rules.linear(layer, incoming, outgoing, RowOwners.of(torch.zeros(1, dtype=torch.int64)))
    assert isinstance(gradient["weight"], Postponed)
    return gradient["weight"]


def test_guarantee_no_length_is_below_what_rounding_adds() -> None:
    gradient = cancelling()
    added = gradient.weighted_sum(torch.ones(1, dtype=torch.float64))
    assert float(added.norm()) <= float(gradient.lengths[0]) * (1 + 1e-9)


def test_where_torch_does_not_say_its_precision_nothing_is_postponed(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed() -> str:
        raise RuntimeError("you have used mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    assert not found_and_expected("linear 3d", "folded")


def one_way(positions: int) -> Tensor:
    """Terms between 1 and -1 that are rounded up when they are added to 1; their sum is next to nothing."""
    terms, least = torch.zeros(positions), 2.0**-23
    terms[1::2], terms[2::2] = 0.51 * least, -0.49 * least
    terms[0], terms[-1] = 1.0, -1.0
    return terms


def test_guarantee_an_owner_whose_rounding_goes_one_way_is_within_the_clip_norm() -> None:
    """It would add 3 clip norms if its length were longer by a root of the number of its positions."""
    layer = nn.Linear(8, 8, bias=False)
    target = one_way(1024)[None, :, None].expand(1, 1024, 8).contiguous()
    for clip_norm in (1.4e-4, 1.6e-4, 1.0):
        box = make_box(layer, clip_norm=clip_norm)
        losses = (layer(torch.ones(1, 1024, 8)) * target).sum((1, 2))
        box.accumulate(losses, OWNER[:1], torch.ones(1), complete=True)
        assert float(box._sum.take()[0][0].norm()) <= clip_norm * (1 + 1e-6)


def test_guarantee_a_unit_of_other_rows_leaves_what_the_others_add_as_it_was() -> None:
    """With it, rows do not fold, and the gradients of all are written out."""
    torch.manual_seed(0)
    layer, count = nn.Linear(32, 32, bias=False), 64
    images, target = (torch.randn(1, 64, 32) + 0.1 * torch.randn(count + 2, 64, 32) for _ in range(2))
    target[count:] = 0.0
    owner = torch.arange(count + 2).clamp(max=count)
    sums = [
        clipped_sum(
            layer,
            lambda rows: (layer(images[rows]) * target[rows]).sum((1, 2)),
            [rows],
            owner,
            torch.ones(count + 2),
        )
        for rows in (list(range(count)), list(range(count + 2)))
    ]
    assert float((sums[0] - sums[1]).norm()) < 1e-5 * CLIP


def test_guarantee_a_buffer_that_is_filled_anew_changes_nothing_that_was_accumulated() -> None:
    torch.manual_seed(0)
    layer, pixels = nn.Linear(32, 32), torch.randn(4, 8, 32).numpy()
    expected, found = (make_box(layer) for _ in range(2))
    for box in (expected, found):
        buffer = torch.from_numpy(pixels.copy())
        box.accumulate(layer(buffer).square().sum((1, 2)), torch.arange(4), torch.ones(4))
        if box is found:
            buffer.numpy()[...] = 1e6
    assert torch.equal(release(found), release(expected))


def test_a_pass_that_is_complete_is_closed_at_once() -> None:
    net, losses = problem()
    expected = clipped_sum(net, losses, SPLITS[1], OWNER, WEIGHT)
    box = make_box(net)
    pieces = [([0, 1], True), ([2, 3, 4], False), ([5, 6, 7], True), ([8, 9, 10, 11], True)]
    for rows, complete in pieces:
        index = torch.tensor(rows)
        box.accumulate(losses(index), OWNER[index], WEIGHT[index], complete=complete)
        assert (box._sum._pending is None) == complete
    assert float((release(box) - expected).norm() / expected.norm()) < 1e-5


def test_guarantee_an_owner_that_returns_after_a_complete_pass_raises_before_anything_is_added() -> None:
    net, losses = problem()
    index = torch.tensor([0, 1, 2])
    boxes = [make_box(net), make_box(net)]
    for box in boxes:
        box.accumulate(losses(index), OWNER[index], WEIGHT[index], complete=True)
    again = torch.tensor([3, 4, 5])
    with pytest.raises(GuaranteeError, match="came back"):
        boxes[0].accumulate(losses(again), OWNER[again], WEIGHT[again])
    assert torch.equal(release(boxes[0]), release(boxes[1]))


def red(check: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        check()


@pytest.mark.planted
@pytest.mark.parametrize("name", ["linear 3d", "conv 3x3"])
def test_planted_gram_matrix_of_single_rows_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The K rows of an owner taken for owners: products between them are missing."""
    whole = ghost_norms._gram

    def of_rows(columns: Tensor) -> Tensor:
        gram = whole(columns)
        half = gram.shape[1] // 2
        gram[:, :half, half:] = gram[:, half:, :half] = 0.0
        return gram

    monkeypatch.setattr(ghost_norms, "_gram", of_rows)
    red(lambda: test_guarantee_a_postponed_gradient_equals_batch_of_one(name, "folded"))


@pytest.mark.planted
def test_planted_sum_before_masking_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Postponed, weights: Tensor) -> Tensor:
        factors = weights.repeat_interleave(self.owners.fold)
        scaled = self.backprop * factors.view(-1, *[1] * (self.backprop.ndim - 1))
        return self.add_up(self.inputs, scaled.float()).double()

    monkeypatch.setattr(Postponed, "weighted_sum", careless)
    test_guarantee_the_clipped_sum_is_that_of_written_gradients("flat", monkeypatch)
    red(lambda: test_guarantee_a_nonfinite_owner_adds_nothing_to_a_postponed_sum(float("nan")))


@pytest.mark.planted
def test_planted_factor_applied_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Postponed.weighted_sum
    monkeypatch.setattr(Postponed, "weighted_sum", lambda self, weights: right(self, weights.square()))
    red(lambda: test_guarantee_the_clipped_sum_is_that_of_written_gradients("flat", monkeypatch))


@pytest.mark.planted
def test_planted_trust_in_lengths_of_what_cancels_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postponed, "_TOO_MUCH", float("inf"))
    red(test_guarantee_no_length_is_below_what_rounding_adds)


@pytest.mark.planted
def test_planted_lengths_that_are_rounded_up_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ghost_norms.measured
    monkeypatch.setattr(
        ghost_norms, "measured", lambda *given: (right(*given)[0] * (1 + 2e-5), right(*given)[1])
    )
    red(test_guarantee_a_unit_of_other_rows_leaves_what_the_others_add_as_it_was)


@pytest.mark.planted
def test_planted_input_that_stays_the_callers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postponed, "apart", lambda self: self)
    red(test_guarantee_a_buffer_that_is_filled_anew_changes_nothing_that_was_accumulated)


@pytest.mark.planted
def test_planted_short_lengths_move_the_sum_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ghost_norms.measured
    monkeypatch.setattr(ghost_norms, "measured", lambda *given: (right(*given)[0] / 2, right(*given)[1]))
    red(test_guarantee_one_owner_moves_a_postponed_sum_by_at_most_the_clip_norm)


def test_guarantee_the_length_of_inputs_that_could_underflow_is_infinite() -> None:
    lengths = linear_lengths(torch.ones(1, 2, 3), torch.full((1, 2, 4), 1e20))[0]
    assert lengths.isinf().all()
