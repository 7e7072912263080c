"""Which process is which, as a launcher says it."""

from __future__ import annotations

import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.processes.ranks import Ranks, ranks_of_environment


def test_without_a_launcher_there_is_one() -> None:
    alone = ranks_of_environment({})
    assert alone == Ranks(rank=0, count=1, local_rank=0)
    assert alone.first
    assert not alone.several


def test_a_launcher_says_which() -> None:
    third = ranks_of_environment({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"})
    assert third == Ranks(rank=2, count=4, local_rank=0)
    assert third.several
    assert not third.first
    assert ranks_of_environment({"RANK": "2", "WORLD_SIZE": "4"}).local_rank == 2


@pytest.mark.parametrize(
    "given",
    [
        {"WORLD_SIZE": "0"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "1"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2"},
    ],
)
def test_numbers_that_do_not_fit_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match="expected"):
        ranks_of_environment(given)
