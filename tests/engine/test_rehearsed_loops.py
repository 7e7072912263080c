"""A rehearsal for loops of one's own: what a box cannot see in its passes, in both forms of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.engine.plain_gradient import PlainGradient
from dp_diffusers.errors import ModelError, ParameterError
from engine_support import CLIP, make_box, release

FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda net: net,
    "parameters": lambda net: net.parameters(),
}
ROWS = 16


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.between(self.one(x)))

    def between(self, hidden: Tensor) -> Tensor:
        return hidden


class OverTheLargest(Plain):
    """No layer mixes units here."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden / hidden.abs().max()


class FrozenInFront(Plain):
    """Batch statistics before the first trained tensor: autograd has no node for them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - x.mean(0)) / x.std(0))


class Dropping(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(hidden, 1e-6)


FOUND = {OverTheLargest: "loss", FrozenInFront: "loss", Dropping: "random numbers of its own"}


def losses_of(net: nn.Module, largest: int = 0) -> Callable[[Tensor], Tensor]:
    """Of random rows, one of which is by far the largest."""
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    x[largest] *= 100
    return lambda index: (net(x[index]) - 1).square().sum(1) * 100


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("largest", range(4))
@pytest.mark.parametrize("kind", FOUND)
def test_guarantee_what_no_layer_shows_is_found_in_the_rehearsal(
    kind: type[Plain], largest: int, form: str
) -> None:
    net = kind()
    with pytest.raises(ModelError, match=FOUND[kind]):
        make_box(FORMS[form](net)).rehearse(losses_of(net, largest))


@pytest.mark.parametrize("form", FORMS)
def test_a_rehearsal_leaves_no_trace(form: str) -> None:
    net = Plain()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    box, unrehearsed, everyone = make_box(FORMS[form](net)), make_box(net), torch.arange(ROWS)
    box.rehearse(losses_of(net))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    for each in (box, unrehearsed):
        each.accumulate(losses_of(net)(everyone), everyone, torch.ones(ROWS))
    assert torch.allclose(release(box), release(unrehearsed), atol=1e-6)


def test_tensors_without_names_are_counted() -> None:
    net = Plain()
    net.extra = nn.Linear(1, 1, bias=False)
    with pytest.raises(ModelError, match="trainable tensors parameter 4"):
        make_box(net.parameters()).rehearse(losses_of(net))


@pytest.mark.parametrize("rows", [1, 0, 2.0, True])
def test_one_row_is_no_rehearsal(rows: Any) -> None:
    net = Plain()
    with pytest.raises(ParameterError, match="expected rows >= 2, got"):
        make_box(net).rehearse(losses_of(net), rows=rows)


def test_a_loop_without_noise_is_rehearsed_alike() -> None:
    net = OverTheLargest()
    with pytest.raises(ModelError, match="loss"):
        PlainGradient(net, expected_units=4).rehearse(losses_of(net))


@pytest.mark.planted
@pytest.mark.parametrize("form", FORMS)
def test_planted_division_by_the_largest_without_a_rehearsal(form: str) -> None:
    """A box alone takes it without a word, and one owner moves the sum by many clip norms."""
    net, totals = OverTheLargest(), []
    for first in (0, 1):
        box, index = make_box(FORMS[form](net)), torch.arange(first, ROWS)
        box.accumulate(losses_of(net)(index), index, torch.ones(len(index)))
        totals.append(release(box))
    assert float((totals[0] - totals[1]).norm()) > 2 * CLIP
