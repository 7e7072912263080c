"""Which units of a step are whose."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusers.errors import BudgetExhausted, DataError, EndedElsewhere, ExitCode
from dp_diffusers.processes.shares import share_of
from dp_diffusers.processes.verdict import EXHAUSTED, Verdict, code_of


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", ["equal", "unequal", "one", "few", "none"])
def test_guarantee_every_unit_has_one_process(kind: str, count: int) -> None:
    rng = np.random.default_rng(0)
    sizes = {
        "equal": np.full(100, 4),
        "unequal": rng.integers(1, 30, 100),
        "one": np.array([5]),
        "few": np.array([1, 1000, 1]),
        "none": np.zeros(0, np.int64),
    }[kind]
    shares = [np.arange(len(sizes))[share_of(sizes, rank, count)] for rank in range(count)]
    assert np.concatenate(shares).tolist() == list(range(len(sizes)))
    rows = [int(sizes[share].sum()) for share in shares]
    assert max(rows) - min(rows) <= 2 * max(sizes, default=0)


def test_no_error_is_none() -> None:
    Verdict.of([0, 0]).apply(1, None)
    assert code_of(None) == 0


def test_the_lowest_error_is_said_and_the_others_end_with_it() -> None:
    verdict = Verdict.of([0, 1 + ExitCode.BAD_INPUT, 1 + ExitCode.BUG])
    with pytest.raises(DataError):
        verdict.apply(1, DataError("broken"))
    for rank, error in ((0, None), (2, ValueError("also"))):
        with pytest.raises(EndedElsewhere) as raised:
            verdict.apply(rank, error)
        assert raised.value.exit_code == ExitCode.BAD_INPUT


def test_a_budget_is_exhausted_for_all_unless_one_has_an_error() -> None:
    with pytest.raises(BudgetExhausted):
        Verdict.of([EXHAUSTED, 0]).apply(1, None)
    assert code_of(BudgetExhausted("spent")) == EXHAUSTED
    with pytest.raises(EndedElsewhere):
        Verdict.of([EXHAUSTED, 1 + ExitCode.BUG]).apply(0, BudgetExhausted("spent"))
