"""Memory that runs out in a step: the step again in smaller passes, the same sum, paid for once."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dp_diffusers.checkpoint import Saver
from dp_diffusers.engine.clipping import ClippedSum
from dp_diffusers.engine.plain_gradient import PlainGradient
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler
from dp_diffusers.errors import DeviceMemoryError, ExitCode, GuaranteeError, ParameterError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.runtime import out_of_memory
from dp_diffusers.runtime.out_of_memory import fits, is_out_of_memory, told_in_one_line
from dp_diffusers.training import Loop
from engine_support import Receipt

sys.path.insert(0, str(Path(__file__).parent / "planted"))
from planted_support import Toy, toy_images, toy_loop

STEPS = 2
OWNER = np.array([0] * 9 + [1] * 2 + list(range(2, 12)))  # the first has more rows than a pass, once halved


class Account:
    """A ledger in name: it counts what is paid for."""

    newest = "head"

    def __init__(self, lane: bytes) -> None:
        self.charged: list[int] = []
        self.lane = lane

    def require_affordable(self) -> None:
        """It always is."""

    def charge(self, step: int) -> Receipt:
        self.charged.append(step)
        return Receipt(step, self.lane)

    def epsilon(self) -> float:
        return 1.0


class Plan:
    """What the loop asks of a plan, with next to no noise; `private` or not."""

    noise_multiplier, budget = 1e-3, SimpleNamespace(epsilon=1.0, unit="image")
    mechanism = DPSGD(steps=STEPS, expected_units=11, population=12)

    def __init__(self, private: bool) -> None:
        self.not_private = not private

    def fresh_keys(self) -> RunKeys:
        return RunKeys.for_tests(1)

    def sampler(self, units: int, keys: Any) -> PoissonSampler:
        return PoissonSampler(units, 11 / 12, keys)

    def private_gradient(self, network: Any, keys: Any) -> Any:
        if self.not_private:
            return PlainGradient(network, expected_units=11)
        return PrivateGradient(
            network,
            clip_norm=0.5,
            noise_multiplier=self.noise_multiplier,
            expected_units=11,
            keys=keys,
            plan_fingerprint="plan",
        )


class Memory:
    """Memory for so many rows: more of them fail in the forward pass, or once their gradients were added.

    spared: so many passes succeed before any does not.
    """

    def __init__(self, rows: int, where: str, spared: int) -> None:
        self.rows, self.where, self.spared, self.now = rows, where, spared, 0

    def check(self, where: str) -> None:
        if where != self.where:
            return
        self.spared -= 1
        if self.spared < 0 and self.now > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes its time, and is not what drops the tensors of a pass."""
    monkeypatch.setattr(out_of_memory, "gc", SimpleNamespace(collect=lambda: 0))


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a loop on the toy whose released sums, charges and messages are kept."""
    monkeypatch.setattr(Saver, "maybe_save", lambda self, **_: None)
    row_losses, contract, finish = Toy.row_losses, ClippedSum._contract, PrivateGradient.finish
    memory = Memory(10**9, "", 0)

    def losses(self: Toy, clean: Tensor, *rest: Any) -> Tensor:
        found = row_losses(self, clean, *rest)
        memory.now = len(clean)
        memory.check("forward")
        return found

    def contracted(self: ClippedSum, *rest: Any) -> None:
        contract(self, *rest)
        memory.check("sum")

    def finished(self: PrivateGradient) -> None:
        memory.check("finish")
        finish(self)

    monkeypatch.setattr(Toy, "row_losses", losses)
    monkeypatch.setattr(ClippedSum, "_contract", contracted)
    monkeypatch.setattr(PrivateGradient, "finish", finished)

    def made(room: int = 10**9, where: str = "forward", private: bool = True, spared: int = 2) -> Any:
        memory.__init__(room, where, spared if where == "forward" else 0)  # type: ignore[misc]
        said: list[str] = []
        plan: Any = Plan(private)
        loop = toy_loop(
            toy_images(12, owner=OWNER),
            plan=plan,
            training={"noise_draws": 2, "max_images_per_unit": 9, "learning_rate": 0.01},
            runtime={"rows_per_pass": 16},
            progress=lambda **facts: said.append(str(facts.get("message", ""))),
        )
        loop.account = Account(loop.keys.lane) if private else None
        released: list[Tensor] = []
        box = plan.private_gradient(loop.family.network, loop.keys)
        release = box.release

        def kept(step: int, receipt: Any) -> Any:
            found = release(step, receipt)
            released.append(torch.cat([tensor.double().flatten() for tensor in found]))
            return found

        box.release = kept
        plan.private_gradient = lambda *_: box
        return loop, released, said

    return made


def trained(loop: Loop) -> None:
    loop.train()
    assert loop.complete


def apart(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest distance of two lists of sums, in clip norms."""
    assert len(first) == len(second)
    return max(float((a - b).norm()) / 0.5 for a, b in zip(first, second))


@pytest.mark.parametrize(
    ("where", "private"),
    [
        ("forward", True),
        ("sum", True),
        pytest.param("finish", True, marks=pytest.mark.slow),
        ("forward", False),
    ],
)
def test_guarantee_out_of_memory_releases_the_same_sum_and_pays_once(
    make: Callable[..., Any], where: str, private: bool
) -> None:
    loop, expected, _ = make(private=private)
    trained(loop)
    loop, found, said = make(5, where, private=private)
    trained(loop)
    assert apart(found, expected) < 1e-5
    assert min(float(value.norm()) for value in expected) > 0.5
    if private:
        assert loop.account.charged == list(range(STEPS))
    assert [text for text in said if text] == [
        "out of memory: 8 rows at a time from here on",
        "out of memory: 4 rows at a time from here on",
    ]
    assert loop.most_rows == 4


def test_one_row_that_does_not_fit_ends_the_run_before_the_step_is_paid_for(make: Callable[..., Any]) -> None:
    loop, released, _ = make(0, spared=1)
    with pytest.raises(DeviceMemoryError, match="one row at a time") as caught:
        loop.train()
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "bfloat16" in str(caught.value.hint)
    assert (loop.account.charged, released, loop.most_rows) == ([], [], 1)


def test_another_error_passes_through(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, said = make()
    monkeypatch.setattr(loop, "row_losses", lambda *_: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        loop.train()
    assert (loop.most_rows, said, loop.account.charged) == (16, [], [])


def test_memory_that_runs_out_after_the_charge_is_not_tried_again(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is paid for and its noise claimed: a second draw would be of another step's, or the same."""
    loop, released, said = make()
    monkeypatch.setattr("dp_diffusers.engine.private_gradient.noisy", _no_room)
    with pytest.raises(MemoryError):
        loop.train()
    assert (loop.account.charged, released, said) == ([0], [], [])
    assert loop.keys.claimed(0)


def _no_room(*_: Any) -> None:
    raise MemoryError


@pytest.mark.planted
def test_planted_sum_that_is_not_dropped(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the passes before the error are there twice."""
    loop, expected, _ = make()
    trained(loop)
    monkeypatch.setattr(PrivateGradient, "start_over", lambda self: self.forget())
    loop, found, _ = make(3, spared=3)
    with pytest.raises(GuaranteeError, match="came back"):  # the box has noticed
        trained(loop)
    monkeypatch.setattr(ClippedSum, "refuse_returning", lambda self, ids: None)
    loop, found, _ = make(3, spared=3)
    trained(loop)
    assert apart(found, expected) > 0.5


@pytest.mark.planted
def test_planted_rows_that_are_forgotten(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pass that failed is done again: what was gathered before it is gone with the sum."""
    loop, expected, _ = make()
    trained(loop)

    def continued(self: Loop, box: Any, step: int, units: np.ndarray, idle: int) -> None:
        rest = iter(list(self.passes(step, units)))
        self.until_it_fits(
            lambda: [self.accumulate(box, rows, step) for rows in rest] and None, box.start_over
        )

    monkeypatch.setattr(Loop, "collect", continued)
    loop, found, _ = make(15, spared=1)
    trained(loop)
    assert apart(found, expected) > 0.5


def test_a_public_batch_is_added_once(make: Callable[..., Any]) -> None:
    """Its gradient goes on top of the released one; what did not fit leaves that as it is."""

    class Public:
        def __init__(self, room: int) -> None:
            self.room = room

        def add_gradient(
            self, parameters: Any, losses: Any, step: int, *, most_rows: int, forget: Any
        ) -> None:
            if most_rows > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            for parameter in parameters:
                parameter.grad = parameter.grad + 1

    loop, _, _ = make()
    for parameter in loop.trainable:
        parameter.grad = torch.zeros_like(parameter)
    loop.public = Public(room=3)
    loop.add_public(loop.plan.private_gradient(loop.family.network, loop.keys), 0)
    assert loop.most_rows == 2
    assert all(bool((parameter.grad == 1).all()) for parameter in loop.trainable)


class Wrapping(torch.autograd.Function):
    """A layer whose backward pass has no memory."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        torch.empty(1 << 55)
        return gradient


def _backward() -> None:
    Wrapping.apply(torch.ones(2, requires_grad=True)).sum().backward()


def _wrapped() -> None:
    try:
        np.empty(1 << 55)
    except MemoryError:
        raise RuntimeError("a library's own words")  # noqa: B904


def _refused() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise ParameterError("a refusal of ours") from error


def _driver() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def _convolution() -> None:
    raise RuntimeError("could not create a primitive")


def _unknown_convolution() -> None:
    raise RuntimeError("could not create a primitive descriptor for a convolution forward propagation")


@pytest.mark.parametrize(
    ("work", "memory"),
    [
        (lambda: torch.empty(1 << 55), True),
        (lambda: np.empty(1 << 55), True),
        (_backward, True),
        (_wrapped, True),
        (_driver, True),
        (_convolution, True),
        (_unknown_convolution, False),
        (_refused, False),
        (lambda: torch.zeros(2) @ torch.zeros(3), False),
        (lambda: {}["key"], False),
    ],
)
def test_which_errors_are_of_memory(work: Callable[[], Any], memory: bool) -> None:
    """The allocators' own errors, not their texts copied here."""
    undone: list[bool] = []
    with pytest.raises(Exception) as caught:
        work()
    assert is_out_of_memory(caught.value) == memory
    if memory:
        assert not fits(work, lambda: undone.append(True))
        with pytest.raises(DeviceMemoryError, match=r"^out of memory$"), told_in_one_line():
            work()
    else:
        with pytest.raises(type(caught.value)):
            fits(work, lambda: undone.append(True))
    assert undone == [True] * memory


def test_what_did_not_fit_is_let_go() -> None:
    """The error's frames hold the tensors of the pass: they are gone when the work is tried again."""
    seen: list[Any] = []

    def work() -> None:
        held = torch.zeros(3)
        seen.append(weakref.ref(held))
        raise MemoryError(held)

    assert not fits(work, lambda: None)
    assert seen[0]() is None
