"""One line of progress: `step 812/2000  ε 0.61/1.00  1.3 s/step  1.2 GB  eta 4m`, or `images 250/2000 …`.

Guarantees that no private number is shown: a loss appears only where the caller declared the training public.
May import the standard library alone (torch only if it is loaded already). Fields: the design's command line.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, TextIO

from dp_diffusers.cli.output import settings

LINE_EVERY_SECONDS = 10.0
DRAW_EVERY_SECONDS = 0.2


class Progress(Protocol):
    """What the library reports to: keyword facts of a step, or a `message`."""

    def __call__(self, **facts: Any) -> None:
        """`message`; or `step`, `steps` and optionally `unit`, `epsilon`, `budget`, `seconds`, `loss`.

        `unit`: what is counted, `step` or `images`; `seconds`: time that the last one took.
        """


class Terminal:
    """Progress on stderr: in place on a terminal, else a line every ten seconds. `public` allows a loss."""

    def __init__(self, *, public: bool = False, stream: TextIO | None = None) -> None:
        self._public = public
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._drawn = 0.0
        self._width = 0
        self._seconds_per_step: float | None = None
        self._previous: float | None = None
        self._task: tuple[str, int] | None = None

    def __call__(
        self,
        *,
        message: str | None = None,
        step: int | None = None,
        steps: int | None = None,
        unit: str = "step",
        seconds: float | None = None,
        **facts: Any,
    ) -> None:
        """Shows a message, or the facts of a step."""
        if settings.quiet:
            return
        if message is not None:
            self.close()
            print(message, file=self._stream, flush=True)
        if step is not None and steps is not None:
            self._time(seconds, (unit, steps))
            self._show(step, steps, unit, facts)

    def close(self) -> None:
        """Ends a line that was drawn in place."""
        if self._width:
            print(file=self._stream, flush=True)
            self._width = 0

    def _time(self, seconds: float | None, task: tuple[str, int]) -> None:
        """A running mean over about ten calls; another task begins anew."""
        if task != self._task:
            self._task, self._seconds_per_step, self._previous = task, None, None
        now = time.monotonic()
        if seconds is None and self._previous is not None:
            seconds = now - self._previous
        self._previous = now
        if seconds is not None:
            mean = self._seconds_per_step
            self._seconds_per_step = seconds if mean is None else 0.9 * mean + 0.1 * seconds

    def _show(self, step: int, steps: int, unit: str, facts: dict[str, Any]) -> None:
        wait = DRAW_EVERY_SECONDS if self._in_place else LINE_EVERY_SECONDS
        now = time.monotonic()
        if step < steps and now - self._drawn < wait:
            return
        self._drawn = now
        line = progress_line(step, steps, self._seconds_per_step, facts, public=self._public, unit=unit)
        if not self._in_place:
            print(line, file=self._stream, flush=True)
            return
        print("\r" + line.ljust(self._width), end="", file=self._stream, flush=True)
        self._width = len(line)
        if step >= steps:
            self.close()


def progress_line(
    step: int,
    steps: int,
    seconds: float | None,
    facts: dict[str, Any],
    *,
    public: bool = False,
    unit: str = "step",
) -> str:
    """The line for one step; facts that are absent are left out."""
    parts = [f"{unit} {step}/{steps}"]
    if facts.get("epsilon") is not None:
        limit = f"/{facts['budget']:.2f}" if facts.get("budget") is not None else ""
        parts.append(f"ε {facts['epsilon']:.2f}{limit}")
    if public and facts.get("loss") is not None:
        parts.append(f"loss {float(facts['loss']):.4f}")
    if seconds is not None:
        parts.append(_speed(seconds, unit))
    memory = memory_bytes()
    if memory:
        parts.append(f"{memory / 1e9:.1f} GB")
    if seconds is not None:
        parts.append(f"eta {duration(seconds * (steps - step))}")
    return "  ".join(parts)


def _speed(seconds: float, unit: str) -> str:
    """`1.3 s/step`; of several things `41 images/s`, which is below 1 for slow ones."""
    if unit != "step":
        rate = 1 / max(seconds, 1e-9)
        return f"{rate:.2g} {unit}/s" if rate < 100 else f"{rate:.0f} {unit}/s"
    return f"{seconds:.2g} s/step" if seconds < 100 else f"{seconds:.0f} s/step"


def duration(seconds: float) -> str:
    """`45s`, `4m`, `2h10m`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def memory_bytes() -> int | None:
    """Peak memory: of the accelerator if one is in use, else of this process; None where it is unknown."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
