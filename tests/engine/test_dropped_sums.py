"""What the box forgets: sums that were discarded, and those of a step that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dp_diffusers.engine.clipping import ClippedSum, _Pending
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.quantile import Quantile
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError
from engine_support import CLIP, Receipt, make_box, release

ROWS = 6


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def add(box: Any, net: nn.Module, start: int = 0, stop: int = ROWS) -> None:
    """One row of each owner from `start` to `stop`; every gradient is far longer than the clip norm."""
    rows = (torch.arange(3.0 * ROWS).view(ROWS, 3) + 1)[start:stop]
    box.accumulate(net(rows).square().sum(1), torch.arange(start, stop), torch.ones(stop - start))


def alone(net: nn.Module) -> torch.Tensor:
    box = make_box(net)
    add(box, net)
    return release(box)


@pytest.mark.parametrize("finished", [True, False])
def test_guarantee_a_discarded_sum_is_in_no_release(net: nn.Module, finished: bool) -> None:
    expected, box = alone(net), make_box(net)
    add(box, net)
    if finished:
        box.finish()
    box.start_over()
    add(box, net)
    assert float((release(box) - expected).norm()) < 1e-5 * CLIP
    add(box, net)
    box.start_over()
    assert float(release(box, 1).norm()) < 1e-5 * CLIP


def test_a_discarded_count_is_in_no_release(net: nn.Module) -> None:
    """Six units are far above the clip norm: the noisy share says so unless they were thrown away."""
    quantile = Quantile(target=0.5, rate=0.2, noise=1e-9)
    for discarded, expected in ((False, 0.0), (True, 0.5)):
        box = make_box(net, clipping="adaptive", quantile=quantile, expected_units=ROWS)
        add(box, net)
        box.finish()
        if discarded:
            box.start_over()
        release(box)
        moved = box.state_dict()["clip_norm"] / CLIP
        assert moved == pytest.approx(float(torch.tensor(0.2 * (0.5 - expected)).exp()), rel=1e-6)


def test_finishing_changes_no_sum_and_closes_every_owner(net: nn.Module) -> None:
    expected, box = alone(net), make_box(net)
    add(box, net)
    box.finish()
    with pytest.raises(GuaranteeError, match="came back"):
        add(box, net)
    box.finish()
    assert torch.equal(release(box), expected)


class Failing:
    """Contractions that add the sum and fail then, as long as they are told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.on = True
        real = ClippedSum._contract

        def contract(this: ClippedSum, *rest: Any) -> None:
            real(this, *rest)
            if self.on:
                raise MemoryError

        patch.setattr(ClippedSum, "_contract", contract)


def test_guarantee_an_owner_that_was_added_when_it_failed_does_not_come_back(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, failing = make_box(net), Failing(monkeypatch)
    add(box, net, 0, 2)
    with pytest.raises(MemoryError):
        add(box, net, 2, 4)
    failing.on = False
    with pytest.raises(GuaranteeError, match="came back"):
        add(box, net, 0, 2)


def moved_by_the_first(net: nn.Module, patch: pytest.MonkeyPatch) -> float:
    """What owner 0 moves a release, in clip norms, where the second pass failed once the first was added."""
    failing, found = Failing(patch), []
    for start in (0, 1):
        box, failing.on = make_box(net), True
        add(box, net, start, 3)
        with pytest.raises(MemoryError):
            add(box, net, 3, 4)
        failing.on = False
        found.append(release(box))
    return float((found[0] - found[1]).norm()) / CLIP


def test_guarantee_a_pass_that_was_added_when_it_failed_is_not_added_again(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who goes on without `start_over` has a wrong sum, and no unit in it twice."""
    assert 0.99 < moved_by_the_first(net, monkeypatch) <= 1 + 1e-5


@pytest.mark.planted
def test_planted_pass_that_stays_open_when_it_failed(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self: ClippedSum, ids: Any, gradients: Any, usable: torch.Tensor, **_: Any) -> None:
        now = _Pending.of(ids, gradients, usable)
        if self._pending is not None:
            self._close(self._pending, self._carry_over(self._pending, now))
        self._pending = now

    monkeypatch.setattr(ClippedSum, "add", late)
    assert moved_by_the_first(net, monkeypatch) > 1.9


def test_guarantee_a_release_that_failed_leaves_nothing_for_the_next(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was paid for and not released would add to what one unit moves in the next one."""
    box, failing = make_box(net), Failing(monkeypatch)
    add(box, net)
    receipt = Receipt(0, box._keys.lane)
    with pytest.raises(MemoryError):
        box.release(0, receipt)
    failing.on = False
    with pytest.raises(GuaranteeError, match="already released"):
        box.release(0, Receipt(0, box._keys.lane))
    assert float(release(box, 1).norm()) < 1e-5 * CLIP


@pytest.mark.planted
def test_planted_sum_that_a_failed_release_leaves(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are cleared once they were taken, and stay where taking them fails."""

    def take(self: ClippedSum) -> Any:
        self.finish()
        taken = self._totals, self._surplus
        self._totals, self._surplus, self._closed = self._zeros(), 0.0, set()
        return taken

    monkeypatch.setattr(ClippedSum, "take", take)
    box, failing = make_box(net), Failing(monkeypatch)
    add(box, net)
    with pytest.raises(MemoryError):
        box.release(0, Receipt(0, box._keys.lane))
    failing.on = False
    assert float(release(box, 1).norm()) > CLIP


def test_guarantee_what_was_gathered_is_thrown_away_too(net: nn.Module) -> None:
    box = make_box(net)
    add(box, net)
    box.gather()
    box.start_over()
    assert float(release(box).norm()) < 1e-5 * CLIP


BAD_RECEIPTS: dict[str, Callable[[RunKeys], Receipt | None]] = {
    "none": lambda keys: None,
    "of another step": lambda keys: Receipt(7, keys.lane),
    "of another lane": lambda keys: Receipt(0, b"another lane"),
}


@pytest.mark.parametrize("receipt", BAD_RECEIPTS)
def test_guarantee_what_was_refused_is_in_no_later_release(net: nn.Module, receipt: str) -> None:
    """Two samples in one release would be a larger sample than was accounted."""
    box = make_box(net)
    add(box, net, 0, 3)
    with pytest.raises(GuaranteeError):
        box.release(0, BAD_RECEIPTS[receipt](box._keys))
    add(box, net, 3, ROWS)
    found, fresh = release(box, 1), make_box(net)
    add(fresh, net, 3, ROWS)
    assert float((found - release(fresh, 1)).norm()) < 1e-5 * CLIP


def test_guarantee_a_step_that_is_left_out_is_noticed(net: nn.Module) -> None:
    """As where a charge was refused and the loop went on."""
    box = make_box(net)
    add(box, net)
    release(box)
    add(box, net, 0, 3)
    add(box, net, 3, ROWS)
    with pytest.raises(GuaranteeError, match="step 2 comes where step 1 was to be released"):
        release(box, 2)
    assert float(release(box, 3).norm()) < 1e-5 * CLIP
    add(box, net)
    box.start_over()
    add(box, net)
    assert float(release(box, 9).norm()) > CLIP


@pytest.mark.planted
def test_planted_sum_that_outlives_a_refusal_is_noticed(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivateGradient, "start_over", lambda self: None)
    with pytest.raises(AssertionError):
        test_guarantee_what_was_refused_is_in_no_later_release(net, "none")
