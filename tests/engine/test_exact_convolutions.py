"""Private passes convolve in float32, whatever a GPU would rather do, and leave the switch as it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers.engine.precision import exact_convolutions

sys.path.insert(0, str(Path(__file__).parents[1] / "planted"))
from planted_support import Toy, toy_images, toy_loop


def precision() -> str:
    return str(torch.backends.cudnn.conv.fp32_precision)


def test_the_switch_is_put_back_after_an_error_too() -> None:
    before = precision()
    inside: list[str] = []

    def failing() -> None:
        with exact_convolutions():
            inside.append(precision())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert inside == ["ieee"]
    assert precision() == before


def test_guarantee_the_passes_of_a_step_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    losses = Toy.row_losses

    def noted(self: Toy, *rest: Any) -> torch.Tensor:
        seen.append(precision())
        return losses(self, *rest)

    monkeypatch.setattr(Toy, "row_losses", noted)
    loop = toy_loop(toy_images(5))

    class Box:
        """What a loop asks of a box while it collects; it accumulates in the precision of the pass."""

        def accumulate(self, *_: Any, **__: Any) -> None:
            seen.append(precision())

        def finish(self) -> None: ...

        def start_over(self) -> None: ...

    loop.collect(Box(), 0, np.arange(5))
    assert seen == ["ieee", "ieee"]
