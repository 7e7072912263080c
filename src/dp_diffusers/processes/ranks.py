"""Which of several processes this one is, as `torchrun` and `accelerate launch` say it in the environment.

Guarantee: without a launcher there is one process, and nothing heavy is loaded to know it. May import the
standard library and the errors. RANK, WORLD_SIZE and LOCAL_RANK are the names that torch gave them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dp_diffusers.errors import ParameterError

LAUNCHED = "a launcher such as torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; unset them for one process"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Process number `rank` of `count`, number `local_rank` on its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1


def ranks_of_environment(environment: Mapping[str, str] | None = None) -> Ranks:
    """The ranks that a launcher gave this process. Raises `ParameterError` for numbers that do not fit."""
    given = os.environ if environment is None else environment
    count = _number(given, "WORLD_SIZE", 1)
    rank = _number(given, "RANK", 0)
    local_rank = _number(given, "LOCAL_RANK", rank)
    if count < 1 or not 0 <= rank < count or not 0 <= local_rank < count:
        raise ParameterError(
            f"expected 0 <= RANK and LOCAL_RANK < WORLD_SIZE, got {rank}, {local_rank} and {count}",
            hint=LAUNCHED,
        )
    return Ranks(rank=rank, count=count, local_rank=local_rank)


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise ParameterError(f"expected {name} to be a whole number, got {text!r}", hint=LAUNCHED)
    return int(text)
