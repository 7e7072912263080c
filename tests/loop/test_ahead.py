"""Passes made ready in a thread: the same sum, errors where they belong, and nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.loop.ahead import Ahead, Inputs
from dp_diffusers.loop.rows import Rows
from unet_support import clipped_sum, new_loop

CPU = torch.device("cpu")


def rows_of(unit: int) -> Rows:
    zero = np.zeros(1, np.int64)
    return Rows(
        units=np.array([unit]),
        counts=np.ones(1, np.int64),
        position=zero,
        slot=zero,
        image=zero,
        variant=zero,
        weight=np.ones(1, np.float32),
    )


def inputs_of(rows: Rows, step: int) -> Inputs:
    value = torch.tensor([float(rows.units[0] + 100 * step)])
    draws = Draws(timesteps=torch.zeros(1, dtype=torch.int64), noise=value, drop_label=torch.zeros(1) > 0)
    return Inputs(clean=value, labels=None, draws=draws)


def passes() -> Iterator[Rows]:
    return (rows_of(unit) for unit in range(5))


def left_running() -> bool:
    return any(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.parametrize("threaded", [True, False])
def test_passes_come_in_order_with_their_inputs(threaded: bool) -> None:
    ahead = Ahead(inputs_of, CPU, threaded)
    for step in (3, 4):
        found = [
            (rows.units[0], ahead.inputs(rows, step).clean.item()) for rows in ahead.passes(passes(), step)
        ]
        assert found == [(unit, unit + 100 * step) for unit in range(5)]
    assert not left_running()


def test_the_next_pass_is_made_while_this_one_is_at_work() -> None:
    made = [threading.Event() for _ in range(5)]

    def make(rows: Rows, step: int) -> Inputs:
        made[rows.units[0]].set()
        return inputs_of(rows, step)

    coming = Ahead(make, CPU, True).passes(passes(), 0)
    for number in range(4):
        next(coming)
        assert made[number + 1].wait(5)
    coming.close()


def test_rows_that_are_not_the_last_pass_are_made_on_the_spot() -> None:
    ahead = Ahead(inputs_of, CPU, True)
    for rows in ahead.passes(passes(), 0):
        assert ahead.inputs(rows_of(9), 2).clean.item() == 209
        assert ahead.inputs(rows, 0).clean.item() == rows.units[0]


class CannotReadError(RuntimeError):
    """What a thread met."""


def failing(rows: Rows, step: int) -> Inputs:
    if rows.units[0] == 2:
        raise CannotReadError
    return inputs_of(rows, step)


def test_an_error_of_the_thread_surfaces_as_itself_where_its_pass_would_come() -> None:
    coming = Ahead(failing, CPU, True).passes(passes(), 0)
    assert [next(coming).units[0], next(coming).units[0]] == [0, 1]
    with pytest.raises(CannotReadError):
        next(coming)
    assert not left_running()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_stop_in_the_middle_of_a_step_leaves_nothing_running(stop: type[BaseException]) -> None:
    def step() -> None:
        for rows in Ahead(inputs_of, CPU, True).passes(passes(), 0):
            if rows.units[0] == 1:
                raise stop

    with pytest.raises(stop):
        step()
    assert not left_running()


def step_sum(base: Any, images: Any, threaded: bool) -> torch.Tensor:
    """The clipped sum of a step of several passes, through the loop."""
    loop = new_loop(base, {"name": "lora", "rank": 2}, *images, draws=2)
    loop.runtime = loop.runtime.model_copy(update={"rows_per_pass": 4})
    loop.ahead = Ahead(loop.made_ready, CPU, threaded)
    return clipped_sum(loop, range(10), step=1)


@pytest.mark.slow
def test_guarantee_the_loop_sums_the_same_with_a_thread_as_without(tiny_base: Any, tiny_images: Any) -> None:
    with_thread, without = (step_sum(tiny_base(), tiny_images, threaded) for threaded in (True, False))
    assert with_thread.abs().max() > 0
    assert torch.equal(with_thread, without)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_inputs_of_another_pass(
    tiny_base: Any, tiny_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defect: every pass of a step gets what was made for its first."""
    right = step_sum(tiny_base(), tiny_images, True)
    kept: list[Any] = []
    make = Ahead._next

    def first_again(self: Ahead, passes: Iterator[Rows], step: int) -> Any:
        found = make(self, passes, step)
        kept.append(found)
        return found and (found[0], kept[0][1])

    monkeypatch.setattr(Ahead, "_next", first_again)
    assert not torch.equal(step_sum(tiny_base(), tiny_images, True), right)
