"""Of sums of several processes the first has all, the others nothing."""

from __future__ import annotations

from typing import Any

import torch
from forks import in_processes


def test_guarantee_of_the_sums_of_others_zeros_are_left() -> None:
    def work(team: Any) -> list[list[float]]:
        sums = [torch.ones(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
        team.sum_to_first(sums)
        return [tensor.tolist() for tensor in sums]

    first, second = in_processes(2, work)
    assert first == [[2.0] * 3, [2.0] * 2]
    assert second == [[0.0] * 3, [0.0] * 2]
