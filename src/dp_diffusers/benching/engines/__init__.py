"""The engines that are compared: each takes the work of a case and does whole training steps of it.

Guarantees that an engine which cannot do a case raises before it is timed. May import torch. A new engine is
one file and one line in `ENGINES`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import ClassVar, Final

from torch import Tensor

from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.errors import ModelError, unknown_name

ENGINES: Final[dict[str, str]] = {
    "plain": "dp_diffusers.benching.engines.plain:Plain",
    "dp-diffusers": "dp_diffusers.benching.engines.ours:Ours",
    "opacus-hooks": "dp_diffusers.benching.engines.opacus:Hooks",
    "opacus-ghost": "dp_diffusers.benching.engines.ghost:Ghost",
    "opacus-functorch": "dp_diffusers.benching.engines.opacus:Functorch",
    "vmap": "dp_diffusers.benching.engines.vmap:Vmap",
    "official": "dp_diffusers.benching.engines.official:Official",
}
CLIP_NORM: Final = 1.0
NOISE_MULTIPLIER: Final = 1.0


class Engine(ABC):
    """One way to train. Building it may raise: then the case has no time, and the reason is in its row."""

    clips: ClassVar[bool] = True
    """Whether it clips each unit; the plain step does not."""

    @abstractmethod
    def __init__(self, work: Work) -> None: ...

    @abstractmethod
    def step(self, number: int) -> None:
        """A whole step: random draws, forward, backward, clip, sum, noise, optimizer. `number`: its place."""

    @abstractmethod
    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """What the engine would add noise to, one tensor a parameter: the sum over units of their clipped
        gradients, each the mean over the unit's K rows."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Without the warnings of the libraries that are compared, which are about their own speed and hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def engine(name: str, work: Work) -> Engine:
    """The engine of that name on a work.

    Raises `ModelError` where its library is missing, and whatever the library raises for the model.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    module, _, kind = ENGINES[name].partition(":")
    try:
        found = getattr(import_module(module), kind)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{str(error.name).partition('.')[0]} is not installed", hint="pip install opacus"
        ) from error
    return found(work)  # type: ignore[no-any-return]
