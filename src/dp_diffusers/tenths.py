"""Progress of long work that has no steps: a line for each tenth, the same ones for every data set.

Guarantee: how many images there are shows in no line. May import nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_TENTHS: Final = 10


def by_tenths(say: Callable[[str], None], what: str) -> Callable[[float], None]:
    """To be called with the share that is done; `say` gets `what: 10 %` and so on, each once."""
    said = 0

    def done(share: float) -> None:
        nonlocal said
        while said < int(min(share, 1.0) * _TENTHS):
            said += 1
            say(f"{what}: {said * 100 // _TENTHS} %")

    return done
