"""What a pass needs on the device, made ready while the device works on the pass before.

Guarantees: passes come in their order and unchanged; an error of the thread is raised where its pass would
have come; nothing runs on once the passes of a step are given up. May import torch, and the rows that it
takes along. A draw is a function of (key, step, unit): it does not matter which thread asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.loop.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Of the R rows of a pass: encoded images, labels or None, and draws."""

    clean: torch.Tensor  # [R, c, h, w] float32
    labels: torch.Tensor | None  # [R] int64
    draws: Draws

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        """The same with every tensor changed."""
        return Inputs(
            clean=change(self.clean),
            labels=None if self.labels is None else change(self.labels),
            draws=Draws(**{name: change(value) for name, value in vars(self.draws).items()}),
        )

    def to(self, device: torch.device) -> Inputs:
        """The same on a device; from pinned memory the copy goes on beside what the caller does next."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))


class Ahead:
    """`make(rows, step)` for each pass; in a thread, one pass ahead, where the device is an accelerator.

    threaded: whether in a thread, in place of that rule. On a processor the thread would take the time of the
    network that it wants to save.
    """

    def __init__(
        self, make: Callable[[Rows, int], Inputs], device: torch.device, threaded: bool | None = None
    ) -> None:
        self._make, self._device = make, device
        self._threaded = device.type != "cpu" if threaded is None else threaded
        self._ready: tuple[Rows, Inputs | None] | None = None

    def passes(self, passes: Iterator[Rows], step: int) -> Iterator[Rows]:
        """The passes of a step as they are; `inputs` has those of the last one that came."""
        if not self._threaded:
            yield from passes
            return
        with ThreadPoolExecutor(1, "ahead") as thread:
            try:
                coming = thread.submit(self._next, passes, step)
                while (found := coming.result()) is not None:
                    coming = thread.submit(self._next, passes, step)
                    self._ready = found
                    yield found[0]
            finally:
                self._ready = None

    def inputs(self, rows: Rows, step: int) -> Inputs:
        """What the network sees of a pass, on the device."""
        (known, made), self._ready = self._ready or (None, None), None
        if known is not rows or made is None:
            made = self._make(rows, step)
        return made.to(self._device)

    def _next(self, passes: Iterator[Rows], step: int) -> tuple[Rows, Inputs | None] | None:
        """The next pass; rows of another kind, an audit's, are made by those who brought them."""
        rows = next(passes, None)
        if rows is None or type(rows) is not Rows:
            return None if rows is None else (rows, None)
        made = self._make(rows, step)
        return rows, made.each(torch.Tensor.pin_memory) if self._device.type == "cuda" else made
