"""One backward pass that hands over gradients as it goes."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from dp_diffusers.engine import unit_grads
from dp_diffusers.engine.backward import flow_back
from dp_diffusers.engine.layer_rules import UnitGradients, linear
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from dp_diffusers.errors import GuaranteeError
from engine_support import assert_close, fast_gradients, oracle


def chain() -> tuple[list[Tensor], Tensor]:
    """Outputs a -> b -> c and an unused d; c is changed in place afterwards."""
    start = torch.randn(3, requires_grad=True)
    a = start * 2
    b = a.sin()
    c = b * a
    d = a + 1
    return [a, b, c, d], c.relu_().sum() + b.sum()


def test_every_gradient_is_complete_and_comes_once() -> None:
    torch.manual_seed(0)
    outputs, objective = chain()
    edges = [get_gradient_edge(output) for output in outputs]
    expected = torch.autograd.grad(objective, edges, retain_graph=True, allow_unused=True)
    found: dict[int, Tensor] = {}
    order: list[int] = []

    def take(place: int, gradient: Tensor) -> None:
        assert place not in found
        assert not torch.is_grad_enabled()
        found[place] = gradient.clone()
        order.append(place)

    flow_back(objective, edges, take)
    assert order == [2, 1, 0]
    assert all(torch.equal(found[place], expected[place]) for place in order)


def test_two_captures_of_one_edge_both_get_its_gradient() -> None:
    outputs, objective = chain()
    edges = [get_gradient_edge(output) for output in (outputs[1], outputs[1], outputs[0], outputs[0])]
    taken: list[int] = []
    flow_back(objective, edges, lambda place, gradient: taken.append(place))
    assert sorted(taken) == [0, 1, 2, 3]


def test_guarantee_nothing_is_left_on_the_graph_after_an_error() -> None:
    outputs, objective = chain()
    edges = [get_gradient_edge(output) for output in outputs]

    def refuse(place: int, gradient: Tensor) -> None:
        raise KeyError(place)

    left = weakref.ref(refuse)
    with pytest.raises(KeyError):
        flow_back(objective, edges, refuse)
    del refuse
    assert left() is None
    assert edges


def test_an_objective_of_none_of_the_edges_is_refused() -> None:
    outputs, _ = chain()
    with pytest.raises(GuaranteeError, match="do not depend"):
        flow_back(torch.ones(()), [get_gradient_edge(outputs[0])], lambda place, gradient: None)


@pytest.mark.parametrize("where", ["input", "between"])
def test_inputs_that_want_gradients_themselves_hide_no_layer(where: str) -> None:
    """As checkpointed models have it: what wants a gradient lies behind the first layer."""
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)), torch.randn(3, 4)

    def losses(index: Tensor) -> Tensor:
        given = inputs[index].requires_grad_()
        return net(given * 2 if where == "between" else given).square().sum(1)

    owner, weight = torch.arange(3), torch.ones(3)
    found = fast_gradients(net, lambda: losses(torch.arange(3)), owner, weight)
    assert_close(found, oracle(net, losses, owner, weight))


def test_an_input_is_let_go_as_soon_as_its_layer_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a step would hold the inputs and backprops of all layers at once."""
    net, kept = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), []
    alive: list[int] = []

    def watching(layer: nn.Module, inputs: Tensor, backprop: Tensor, owners: RowOwners) -> UnitGradients:
        kept.append(weakref.ref(inputs))
        alive.append(sum(reference() is not None for reference in kept))
        return linear(layer, inputs, backprop, owners)

    monkeypatch.setattr(unit_grads, "rule_for", lambda layer: watching)
    source = HookedUnitGradients(net)
    losses = net(torch.randn(2, 4)).sum(1)
    source.compute(losses, torch.ones(2), RowOwners.of(torch.arange(2)))
    source.close()
    assert len(alive) == 4
    assert max(alive) <= 2
