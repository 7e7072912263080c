"""Several processes of one training, joined by torch.distributed: gloo for numbers and words, NCCL for GPUs.

Guarantees:
- an error in one process ends all of them, with the same exit code and one line; none waits for ever;
- keys and sums without noise go from process to process alone: never to the launcher's store, never to disk;
- what a process sent is zeroed where it stays behind.
May import torch. The network between the processes is trusted like the memory of one.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from dp_diffusers.engine.randomness import HANDED_OVER, RunKeys
from dp_diffusers.errors import DPDiffusersError, EndedElsewhere, GuaranteeError, Interrupted, ParameterError
from dp_diffusers.processes.ranks import Ranks
from dp_diffusers.processes.transport import by_kind, uses_nccl
from dp_diffusers.processes.verdict import Verdict, code_of
from dp_diffusers.runtime.out_of_memory import told_in_one_line

Result = TypeVar("Result")
JOINING: Final = timedelta(minutes=10)
WAITING: Final = timedelta(days=7)  # while the first encodes images or writes the release; a death ends it


class Group:
    """See `Team`. A dead process closes its connections, which the others notice at once."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._patient = self._group = self._new_group(WAITING)
        self._limit = WAITING

    @classmethod
    def joined(cls, ranks: Ranks) -> Group:
        """Waits for the other processes. Raises `Interrupted` where they do not come."""
        with _reaching(ranks, JOINING):
            if not distributed.is_initialized():
                distributed.init_process_group("gloo", timeout=JOINING)
            return cls(ranks)

    @property
    def first(self) -> bool:
        """Whether it is the one that writes, pays and speaks."""
        return self.ranks.first

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.ranks.several

    def all_do(self, work: Callable[[], Result], same: Callable[[], Sequence[int]] | None = None) -> Result:
        """Does the work in every process, and waits for all; see `Team`."""
        result, error = _tried(work)
        numbers = [0] if error or same is None else [1, *same()]
        said = self._all_gathered(torch.tensor([code_of(error), *_padded(numbers)], dtype=torch.int64))
        Verdict.of(said[:, 0].tolist()).apply(self.ranks.rank, error)
        if bool((said != said[0]).any()):
            raise GuaranteeError(
                "the processes of this training hold different weights, or are at different steps",
                hint="use the same kind of machine and the same versions for all of them",
            )
        return result  # type: ignore[return-value]

    def first_does(self, work: Callable[[], Result]) -> Result | None:
        """Does the work in the first process, and waits for it; None in the others."""
        result, error = _tried(work) if self.first else (None, None)
        code = torch.tensor([code_of(error)], dtype=torch.int64)
        self._broadcast(code)
        Verdict.of(code.tolist()).apply(self.ranks.rank, error)
        return result

    def first_tells(self, work: Callable[[], Any]) -> Any:
        """What the work gives in the first process, in all of them: a JSON document."""
        said = self.first_does(lambda: json.dumps(work()).encode())
        return json.loads(self._bytes_of_first(said or b""))

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Does the work in the first process, and then in the others."""
        done = self.first_does(work)
        return self.all_do(lambda: done if self.first else work())  # type: ignore[return-value]

    def state_of_first(self, work: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
        """What the work gives in the first process, in all of them: tensors and plain values, on the CPU."""
        state = self.first_does(work)
        written = io.BytesIO()
        if self.first:
            torch.save(state, written)
        said = self._bytes_of_first(written.getvalue())
        return state if self.first else torch.load(io.BytesIO(said), weights_only=True, map_location="cpu")

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return int(self._all_gathered(torch.tensor([number], dtype=torch.int64)).max())

    def require_same(self, what: str, value: str) -> None:
        """Raises `ParameterError` unless every process holds the same `value`."""
        mine = value.encode()
        other = self._bytes_of_first(mine)

        def compare() -> None:
            if mine != other:
                raise ParameterError(
                    f"process {self.ranks.rank} has another {what} than process 0",
                    hint="start all processes with the same command, on the same files",
                )

        self.all_do(compare)

    def keys(self, make: Callable[[], RunKeys]) -> RunKeys:
        """The keys that the first process makes, in all of them; the first alone can draw noise from them."""
        made = self.first_does(make)
        if made is not None:
            made.hand_over(self._broadcast_parcel)
            return made
        parcel = bytearray(HANDED_OVER)
        self._broadcast_parcel(parcel)
        return RunKeys.received(parcel)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """For the time of steps: how long a process waits for another before it takes it for gone."""
        self._limit = timedelta(seconds=seconds)
        with _reaching(self.ranks, WAITING):
            self._group = self._new_group(self._limit)
        try:
            yield
        finally:
            self._group, self._limit = self._patient, WAITING

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """For work that itself waits for other processes, as a pass through a base in pieces does."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, distributed.DistError) or "gloo" in str(error):
                raise _gone(self.ranks, self._limit) from error
            raise

    def refuse_shared(self, owners: Sequence[int]) -> None:
        """Raises `GuaranteeError` in every process if an owner is on two of them."""
        counts = self._all_gathered(torch.tensor([len(owners)], dtype=torch.int64))
        longest = int(counts.max())
        if longest == 0:
            return
        mine = torch.full((longest,), -1, dtype=torch.int64)
        mine[: len(owners)] = torch.tensor(owners, dtype=torch.int64)
        everyone = self._all_gathered(mine)
        known = everyone[everyone >= 0]
        if len(set(known.tolist())) != len(known):
            raise GuaranteeError("an owner is on two processes: it would be clipped twice and count twice")

    def sum_to_first(self, tensors: Sequence[Tensor]) -> None:
        """Adds up what all hold, in place, in the first process; in the others zeros are left.

        A reduction leaves partial sums behind where it passes through.
        """
        for parcel in by_kind(tensors, everywhere=uses_nccl()):
            with self._reaching():
                distributed.reduce(parcel.flat, 0, group=self._group)
            if not self.first:
                parcel.flat.zero_()
            parcel.unpack()

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites, in place, with what the first process holds."""
        for parcel in by_kind(tensors, everywhere=uses_nccl()):
            self._broadcast(parcel.flat)
            parcel.unpack()

    def _broadcast_parcel(self, parcel: bytearray) -> None:
        self._broadcast(torch.frombuffer(parcel, dtype=torch.uint8))  # the very bytes: no copy to zero

    def _bytes_of_first(self, said: bytes) -> bytes:
        size = torch.tensor([len(said)], dtype=torch.int64)
        self._broadcast(size)
        buffer = bytearray(said) if self.first else bytearray(int(size))
        if buffer:
            self._broadcast(torch.frombuffer(buffer, dtype=torch.uint8))
        return bytes(buffer)

    def _broadcast(self, tensor: Tensor) -> None:
        with self._reaching():
            distributed.broadcast(tensor, 0, group=self._group)

    def _all_gathered(self, mine: Tensor) -> Tensor:
        """`[W, *shape]` of a small tensor on the CPU."""
        everyone = [torch.empty_like(mine) for _ in range(self.ranks.count)]
        with self._reaching():
            distributed.all_gather(everyone, mine, group=self._group)
        return torch.stack(everyone)

    def _reaching(self) -> contextlib.AbstractContextManager[None]:
        return _reaching(self.ranks, self._limit)

    @staticmethod
    def _new_group(limit: timedelta) -> Any:
        backend = "cpu:gloo,cuda:nccl" if uses_nccl() else "gloo"
        return distributed.new_group(backend=backend, timeout=limit)


@contextlib.contextmanager
def _reaching(ranks: Ranks, limit: timedelta) -> Iterator[None]:
    """Whatever torch raises where a connection is gone or nobody answers. Two ranks say so: one may be it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _gone(ranks, limit) from error


def _gone(ranks: Ranks, limit: timedelta) -> DPDiffusersError:
    if ranks.rank > 1:
        return EndedElsewhere(Interrupted.exit_code)
    silent = "" if limit == WAITING else f", or gave no answer for {limit.total_seconds():g} s"
    return Interrupted(
        f"another process of this training is gone{silent}",
        hint="what was paid stays paid; run the same command again to resume",
    )


def _tried(work: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    try:
        with told_in_one_line():
            return work(), None
    except BaseException as error:  # also an interrupt: the others end with it
        return None, error


_NUMBERS: Final = 4


def _padded(numbers: Sequence[int]) -> list[int]:
    assert len(numbers) <= _NUMBERS
    return [*numbers, *[0] * (_NUMBERS - len(numbers))]
