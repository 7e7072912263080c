"""Which tensors carry rows: nothing that is shared by all rows is cut up in a pass of just as many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.engine import generic_rule
from dp_diffusers.errors import ModelError
from engine_support import assert_close, fast_gradients, make_box, oracle

POSITIONS = 4


class Scaled(nn.Module):
    """A trained tensor that the generic rule serves, and a table that it is used with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return x * table * self.weight


class Given(nn.Module):
    """Hands a table of its positions to a layer that owns none, in the given shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = Scaled()
        self.register_buffer("table", torch.randn(POSITIONS).view(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.inner(x, self.table))


class PositionsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.inner(x.transpose(0, 1).contiguous()).transpose(0, 1))


def table() -> nn.Module:
    return Given(POSITIONS, 1)


def losses_of(net: nn.Module, rows: int) -> Callable[[Tensor], Tensor]:
    x = torch.randn(rows, POSITIONS, 3, generator=torch.Generator().manual_seed(1))
    return lambda index: net(x[index]).square().flatten(1).sum(1)


def agree(net: nn.Module, rows: int) -> None:
    """The gradients of single rows are those of batches of one."""
    losses, owner, weight = losses_of(net, rows), torch.arange(rows), torch.ones(rows)
    found = fast_gradients(net, lambda: losses(owner), owner, weight)
    assert_close(found, oracle(net, losses, owner, weight))


@pytest.mark.parametrize("rows", [1, 2, POSITIONS - 1, POSITIONS + 1])
def test_guarantee_a_table_that_may_be_taken_for_rows_is_refused_by_name(rows: int) -> None:
    with pytest.raises(
        ModelError, match="layer inner: Scaled is given a tensor that is not one row"
    ) as error:
        agree(table(), rows)
    assert "first dimension of 1" in str(error.value.hint)


@pytest.mark.parametrize("rows", [1, 2, POSITIONS, POSITIONS + 1])
def test_a_table_with_a_first_dimension_of_one_serves_all_rows(rows: int) -> None:
    agree(Given(1, POSITIONS, 1), rows)


@pytest.mark.parametrize("rows", [2, POSITIONS, POSITIONS + 1])
@pytest.mark.parametrize("kind", [table, PositionsFirst])
def test_guarantee_the_rehearsal_finds_what_passes_for_rows(kind: Callable[[], nn.Module], rows: int) -> None:
    """Also where there are just as many rows as positions, which a pass cannot tell apart."""
    net = kind()
    with pytest.raises(ModelError, match=r"not one row|one row per loss|not those of a batch of one"):
        make_box(net).rehearse(losses_of(net, rows), rows=rows)


@pytest.mark.planted
def test_planted_table_is_cut_into_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact for all numbers of rows but one, and wrong there without a word."""
    monkeypatch.setattr(generic_rule, "_refuse_tables", lambda *_: None)
    for rows in (1, 2, POSITIONS + 1):
        agree(table(), rows)
    with pytest.raises(AssertionError):
        agree(table(), POSITIONS)
