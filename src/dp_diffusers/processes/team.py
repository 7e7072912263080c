"""The processes of one training, as one of them sees them; and the one that has no others.

Guarantee: with one process every call is the work that it is given, and torch.distributed is not loaded. May
import the standard library, the ranks and the errors. The first process writes, pays and speaks; an error in
one process ends all of them, and one says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dp_diffusers.processes.ranks import Ranks, ranks_of_environment

if TYPE_CHECKING:
    from torch import Tensor

    from dp_diffusers.engine.randomness import RunKeys

Result = TypeVar("Result")


class Team(Protocol):
    """What a training asks of its processes. Every process makes the same calls, in the same order.

    Where `work` fails in one process, it fails in all: the lowest rank that has an error of its own raises
    that one, the others `EndedElsewhere`; a budget that is exhausted is exhausted for all. A process that is
    gone, or does not answer in time, is `Interrupted` in those that are left.
    """

    @property
    def ranks(self) -> Ranks:
        """Which process this is."""

    @property
    def first(self) -> bool:
        """Whether it is the one that writes, pays and speaks."""

    @property
    def several(self) -> bool:
        """Whether there are others."""

    def all_do(self, work: Callable[[], Result], same: Callable[[], Sequence[int]] | None = None) -> Result:
        """Does the work in every process, and waits for all.

        same: numbers that do not differ between processes; `GuaranteeError` in all of them if they do.
        """

    def first_does(self, work: Callable[[], Result]) -> Result | None:
        """Does the work in the first process, and waits for it; None in the others."""

    def first_tells(self, work: Callable[[], Any]) -> Any:
        """What the work gives in the first process, in all of them: a JSON document."""

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Does the work in the first process, and then in the others."""

    def state_of_first(self, work: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
        """What the work gives in the first process, in all of them: a state of tensors and plain values."""

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes."""

    def require_same(self, what: str, value: str) -> None:
        """Raises `ParameterError` unless every process holds the same `value`."""

    def keys(self, make: Callable[[], RunKeys]) -> RunKeys:
        """The keys that the first process makes, in all of them; the first alone can draw noise from them."""

    def within(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """For the time of steps: how long a process waits for another before it takes it for gone."""

    def gathering(self) -> contextlib.AbstractContextManager[None]:
        """For work that itself waits for other processes, as a pass through a base in pieces does."""

    def refuse_shared(self, owners: Sequence[int]) -> None:
        """See `engine.together`."""

    def sum_to_first(self, tensors: Sequence[Tensor]) -> None:
        """See `engine.together`."""

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """See `engine.together`."""


class Alone:
    """One process: whatever is to be done it does."""

    ranks = Ranks()
    first = True
    several = False

    def all_do(self, work: Callable[[], Result], same: Callable[[], Sequence[int]] | None = None) -> Result:
        """Does the work."""
        return work()

    def first_does(self, work: Callable[[], Result]) -> Result | None:
        """Does the work."""
        return work()

    def first_tells(self, work: Callable[[], Any]) -> Any:
        """Does the work."""
        return work()

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Does the work."""
        return work()

    def state_of_first(self, work: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
        """Does the work."""
        return work()

    def largest(self, number: int) -> int:
        """The number."""
        return number

    def require_same(self, what: str, value: str) -> None:
        """Nothing: there is nobody to differ from."""

    def keys(self, make: Callable[[], RunKeys]) -> RunKeys:
        """Makes them."""
        return make()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Nothing: there is nobody to wait for."""
        yield

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Nothing: there is nobody to wait for."""
        yield

    def refuse_shared(self, owners: Sequence[int]) -> None:
        """Nothing: a box alone refuses an owner that returns."""

    def sum_to_first(self, tensors: Sequence[Tensor]) -> None:
        """Nothing."""

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Nothing."""


ALONE = Alone()
_known: list[Team] = []  # of this process, once it has joined the others


def team() -> Team:
    """The processes that a launcher started this one with; joins them the first time.

    Raises `ParameterError` for a launcher's numbers that do not fit, `Interrupted` where the others are not
    to be reached.
    """
    ranks = ranks_of_environment()
    if not ranks.several:
        return ALONE
    if not _known:
        from dp_diffusers.processes.group import Group

        _known.append(Group.joined(ranks))
    return _known[0]
