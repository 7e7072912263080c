"""Parts of a model that run again in the backward pass (gradient checkpointing), beside captured layers.

Guarantees: the input of a layer in such a part is not kept from the forward pass, else it would hold the
memory that checkpointing frees; it is taken from the second run, as the call that it belongs to. May import
torch and the engine. Source: Chen et al., *Training Deep Nets with Sublinear Memory Cost* (2016, arXiv
1604.06174); torch's checkpoint that does not re-enter autograd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from dp_diffusers.engine.generic_rule import Call
from dp_diffusers.engine.graph_checks import nodes_behind
from dp_diffusers.errors import GuaranteeError, ModelError

_HERE = threading.local()  # the second run is in a thread of autograd's where the device is a GPU
Told = tuple[Call, list[int]]  # and the versions of its tensors


class Part:
    """One run of a part of the model: the calls of its layers, numbered by who asks and in their order.

    A source of unit gradients takes a `number` for each call of the first run, and `tell`s the calls of the
    second; `call` is what was told under a number, and lets go of it.
    """

    def __init__(self) -> None:
        self.again = False
        self._count: dict[int, int] = {}
        self._calls: dict[tuple[int, int], Told] = {}
        self._start: Any = None

    def begin(self, *, again: bool) -> None:
        """The start of the first run, or of a later one."""
        self.again, self._count = again, {}

    def number(self, asker: int) -> int:
        """The place of a call in this run, among those of one asker."""
        place = self._count.get(asker, 0)
        self._count[asker] = place + 1
        return place

    def tell(self, asker: int, told: Told) -> None:
        """A call of the second run."""
        self._calls[asker, self.number(asker)] = told

    def call(self, asker: int, number: int) -> Told:
        """The call of that number. Where the backward pass needed nothing of this part, it runs now."""
        if (asker, number) not in self._calls:
            _ = self._start._saved_result  # asks for what was not kept
        if (asker, number) not in self._calls:
            raise GuaranteeError("a checkpointed part of the model called other layers when it ran again")
        return self._calls.pop((asker, number))

    def mark(self) -> None:
        """Leaves one saved number in the graph of the first run, by which `call` can ask for the second."""
        marked = torch.zeros((), requires_grad=True).exp()
        self._start = self._start if self.again else marked.grad_fn


@dataclass(kw_only=True)
class _Running:
    """While it lasts, calls of layers belong to the part; torch enters that of the second run for each
    backward pass."""

    part: Part
    again: bool
    before: Part | None = None

    def __enter__(self) -> None:
        self.before = current()
        self.part.begin(again=self.again)
        _HERE.part = self.part

    def __exit__(self, *problem: object) -> None:
        _HERE.part = self.before


def current() -> Part | None:
    """The part that runs now in this thread."""
    return getattr(_HERE, "part", None)


def checkpointed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, which keeps its arguments alone and runs again in the backward pass.

    Inside another such call it is an ordinary call. All of the function runs again, not only what is needed.
    """
    if current() is not None or not torch.is_grad_enabled():
        return function(*args, **kwargs)
    part = Part()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return _Running(part=part, again=False), _Running(part=part, again=True)

    def run(*given: Any, **named: Any) -> Any:
        part.mark()
        return function(*given, **named)

    with set_checkpoint_early_stop(False):
        return checkpoint(run, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def refuse_reentry(losses: Tensor) -> None:
    """Raises `ModelError` for checkpointing that starts a backward pass inside another: what is trained in
    there is out of reach for everyone but `Tensor.backward`."""
    for node in nodes_behind(losses):
        if node.name() == "CheckpointFunctionBackward":
            raise ModelError(
                "gradient checkpointing with use_reentrant=True cannot give gradients of units",
                hint="use_reentrant=False; or leave it to runtime.gradient_checkpointing: true",
            )
