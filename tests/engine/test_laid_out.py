"""What the hooks hold of a forward pass: nothing that autograd has not kept, however an input lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dp_diffusers.engine import unit_grads
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.laid_out import _is_matrix
from dp_diffusers.engine.unit_grads import HookedUnitGradients
from engine_support import assert_close, fast_gradients, oracle

ROWS, LONG, SHORT, WIDE = 6, 5, 3, 4
INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda joint: joint,
    "slice of positions": lambda joint: joint[:, :SHORT],  # the picture in a sequence of picture and text
    "transposed": lambda joint: joint[..., :LONG].mT,  # pixels of channels
    "heads": lambda joint: joint.view(ROWS, LONG, 2, 2).transpose(1, 2)[..., :2],
    "slice of features": lambda joint: joint[..., : WIDE - 1],
    "repeated": lambda joint: joint[:, :1].expand(ROWS, SHORT, WIDE),
    "one position": lambda joint: joint[:, 1],
}


class Adapter(nn.Module):
    """A frozen layer, a view of what comes out of it, and a trained pair of narrow layers."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.view = view
        self.frozen = nn.Linear(WIDE, WIDE).requires_grad_(False)
        wide = view(torch.zeros(ROWS, LONG, WIDE)).shape[-1]
        self.down, self.up = nn.Linear(wide, 2, bias=False), nn.Linear(2, wide)

    def forward(self, rows: Tensor) -> Tensor:
        return self.up(self.down(self.view(self.frozen(rows).sin())))  # type: ignore[no-any-return]


def held_and_kept(net: nn.Module, rows: Tensor) -> tuple[set[int], set[int]]:
    """Addresses of memory: that hooks hold after a forward pass, and that autograd keeps."""
    kept: list[Tensor] = []
    source = HookedUnitGradients(net)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        net(rows)
    held = [tensor for capture in source._captures for tensor in capture.call.tensors]
    source.close()
    return tuple({t.untyped_storage().data_ptr() for t in tensors} for tensors in (held, kept))  # type: ignore[return-value]


@pytest.mark.parametrize("name", INPUTS)
def test_hooks_hold_no_memory_that_autograd_does_not_keep(name: str) -> None:
    held, kept = held_and_kept(Adapter(INPUTS[name]), torch.randn(ROWS, LONG, WIDE))
    assert held
    assert held <= kept


@pytest.mark.planted
@pytest.mark.parametrize("name", ["slice of positions", "transposed"])
def test_planted_input_that_is_kept_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_grads, "lay_out", lambda layer, args: None)
    held, kept = held_and_kept(Adapter(INPUTS[name]), torch.randn(ROWS, LONG, WIDE))
    assert not held <= kept


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "repeated"])
def test_guarantee_gradients_of_any_layout_are_those_of_a_batch_of_one(name: str) -> None:
    """`repeated` mixes rows by itself."""
    net, rows = Adapter(INPUTS[name]), torch.randn(ROWS, LONG, WIDE)
    owner, weight = torch.arange(ROWS) // 2, torch.full((ROWS,), 0.5)

    net.view = _of_rows(INPUTS[name])

    def losses(index: Tensor) -> Tensor:
        out = net(rows[index]).flatten(1)
        return (out.square() * torch.arange(out.shape[1])).sum(1)  # every position counts differently

    found = fast_gradients(net, lambda: losses(torch.arange(ROWS)), owner, weight)
    assert_close(found, oracle(net, losses, owner, weight))


def _of_rows(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The view for any number of rows: those that are missing are put behind, and taken away."""
    return lambda joint: view(torch.cat([joint, joint.new_zeros(ROWS - len(joint), *joint.shape[1:])]))[
        : len(joint)
    ]


@pytest.mark.parametrize("name", INPUTS)
def test_a_matrix_is_what_flattens_without_a_copy(name: str) -> None:
    inputs = INPUTS[name](torch.randn(ROWS, LONG, WIDE))
    flat = inputs.flatten(0, -2) if inputs.ndim > 1 else inputs
    assert _is_matrix(inputs) == (flat.data_ptr() == inputs.data_ptr())


def test_no_sum_is_in_memory_before_a_pass_is_clipped() -> None:
    """Its float64 would lie beside all that a forward pass keeps."""
    total = ClippedSum([torch.zeros(3)], 1.0, "flat")
    for _ in range(2):
        assert total._totals == []
        total.add([0], [torch.ones(1, 3)], torch.ones(1, dtype=torch.bool))
        assert total._totals == []  # more rows of this owner may come
        assert torch.allclose(total.take()[0][0], torch.full((3,), 3**-0.5, dtype=torch.float64))
    assert not total.take()[0][0].any()
