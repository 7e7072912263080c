"""Work that a SIGTERM does not cut in two: it is put off until the work is done.

Guarantee: the signal is not lost. A launcher sends it to all processes as soon as one of them has ended,
which may be while the first gives its reservation back. May import the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Puts SIGTERM off. In a thread of its own, where Python sees no signals, it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)
