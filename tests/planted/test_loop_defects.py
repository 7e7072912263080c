"""Known defects of private training, planted in the real loop on a real U-Net: each turns a property red."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dp_diffusers import checkpoint
from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.finetuning import train
from dp_diffusers.plan import Plan
from dp_diffusers.privacy import certified_numbers
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.recipe import Recipe
from loop_support import charges, cheap_trainings, logged, problems_of_steps, read_log, small_budget
from unet_support import bounded, contribution, moved, new_loop

sys.path.insert(0, str(Path(__file__).parents[1] / "statistics"))
from test_released_noise import has_std, released_values, unrelated

ATTENTION = {"name": "lora", "rank": 2, "targets": "attention"}
TRAINED: list[Any] = [
    ATTENTION,
    {"name": "lora", "rank": 2, "targets": "convolution"},
    "convolution",
    "norm",
    "embedding",
]


def name_of(trained: Any) -> str:
    return trained if isinstance(trained, str) else f"lora on {trained['targets']}"


@pytest.mark.parametrize("draws", [1, 4, 12])
@pytest.mark.parametrize("trained", TRAINED, ids=name_of)
def test_guarantee_contribution_of_a_unit(
    trained: Any, draws: int, tiny_base: Callable[..., Any], tiny_images: Any
) -> None:
    loop = new_loop(tiny_base(), trained, *tiny_images, draws=draws)
    assert contribution(loop, 3) > 0.999
    assert bounded(contribution(loop, 3))
    assert bounded(moved(loop, range(6), leaves=0))


@pytest.mark.planted
@pytest.mark.parametrize("draws", [4, 12])
@pytest.mark.parametrize("trained", TRAINED, ids=name_of)
def test_planted_clipping_of_each_draw(
    trained: Any,
    draws: int,
    tiny_base: Callable[..., Any],
    tiny_images: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def each_row(owner: Tensor) -> RowOwners:
        return RowOwners(ids=list(range(len(owner))), index=torch.arange(len(owner)), fold=1)

    monkeypatch.setattr(private_gradient.RowOwners, "of", staticmethod(each_row))
    found = contribution(new_loop(tiny_base(), trained, *tiny_images, draws=draws), 3)
    assert not bounded(found)
    assert found > 1.3


@pytest.mark.planted
def test_planted_draws_by_batch_position(
    tiny_base: Callable[..., Any], tiny_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = new_loop(tiny_base(), ATTENTION, *tiny_images, draws=4)
    assert bounded(moved(loop, range(10), leaves=0))

    def positional(self: RunKeys, domain: str, step: int, units: np.ndarray, count: int) -> np.ndarray:
        stream = np.random.default_rng([step, len(domain)])
        shape = (len(units), count)
        return (
            stream.standard_normal(shape, np.float32) if domain == "diffusion-noise" else stream.random(shape)
        )

    for kind in ("normal", "uniform"):
        monkeypatch.setattr(RunKeys, kind, positional)
    assert bounded(contribution(loop, 0)), "each unit alone looks innocent"
    assert moved(loop, range(10), leaves=0) > 1.5


@pytest.mark.planted
def test_planted_timesteps_by_the_largest_unit(
    tiny_base: Callable[..., Any], tiny_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timesteps spread over the rows of the unit with most of them: its absence shifts everyone else's."""
    owner = np.array([0] * 8 + [1] * 3 + [2] * 2 + [3] * 5 + [4] * 7 + [5] * 5)
    loop = new_loop(tiny_base(), ATTENTION, *tiny_images, owner=owner)
    assert bounded(moved(loop, range(6), leaves=0))
    draw = Objective.draw

    def shared(self: Objective, stream: Any, step: int, **rows: Any) -> Draws:
        shift = stream.uniform("timestep", step, rows["units"], 1)[rows["position"], 0]
        levels = self.levels((shift + rows["slot"] / rows["slots"]) % 1.0)
        return replace(draw(self, stream, step, **rows), timesteps=torch.from_numpy(levels))

    monkeypatch.setattr(Objective, "draw", shared)
    assert not bounded(moved(loop, range(6), leaves=0))


def interrupted(recipe: Path, *, after: int) -> None:
    """A training that stops after some step."""

    def stop(**facts: Any) -> None:
        if facts.get("step") == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(recipe), recipe.parent / "run", stop)


def account_of(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong with the account of a run that stops after two steps, forgets one, and goes on."""
    log, state = recipe.parent / "log", recipe.parent / "run" / "private" / "checkpoint.pt"
    cheap_trainings(monkeypatch.setattr)
    small_budget(recipe)
    monkeypatch.setattr(PrivateGradient, "release", logged(log)(PrivateGradient.release))

    def problems() -> list[str]:
        return problems_of_steps(charges(recipe.parent / "tiny.ledger"), *read_log(log))

    interrupted(recipe, after=2)
    found = problems()
    saved = checkpoint.load(state)
    assert saved is not None
    checkpoint.save_atomic({**saved, "step": 1}, state)
    train(Recipe.load(recipe), recipe.parent / "run")
    return found + problems()


def test_guarantee_the_account_of_a_resumed_run(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert account_of(tiny_recipe, monkeypatch) == []


def receipt(account: Reservation, step: int) -> Receipt:
    assert account._lane is not None
    return Receipt(step=step, lane=account._lane, plan_fingerprint=account.plan_fingerprint)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_charge_after_release(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is paid for when the next one begins: a process that stops between the two has not paid."""
    charge, owed = Reservation.charge, {}

    def late(self: Reservation, step: int) -> Receipt:
        if self in owed:
            charge(self, owed[self])
        owed[self] = step
        return receipt(self, step)

    monkeypatch.setattr(Reservation, "charge", late)
    monkeypatch.setattr(certified_numbers, "_require_no_choice", lambda run: None)  # it misses the charge too
    assert "a step was released that nobody paid for" in account_of(tiny_recipe, monkeypatch)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_redone_steps_for_free(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume that does not pay for a step which the lane before has paid for."""
    charge = Reservation.charge

    def forgetful(self: Reservation, step: int) -> Receipt:
        known = {entry.content["step"] for entry in self.ledger.entries() if entry.kind == "charge"}
        return receipt(self, step) if step in known else charge(self, step)

    monkeypatch.setattr(Reservation, "charge", forgetful)
    assert "fewer steps were paid for than released" in account_of(tiny_recipe, monkeypatch)


@pytest.mark.slow
@pytest.mark.planted
def test_planted_noise_from_the_experiment_seed(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded() -> RunKeys:
        return RunKeys(hashlib.sha256(b"seed 0").digest(), hashlib.md5(b"seed 0").digest(), not_private=False)

    monkeypatch.setattr(Plan, "fresh_keys", staticmethod(seeded))
    first, std = released_values(tiny_recipe, "one")
    (tiny_recipe.parent / "tiny.ledger").unlink()  # it would refuse a lane that it knows
    second, _ = released_values(tiny_recipe, "two")
    assert has_std(first, std), "the noise of each run alone looks right"
    assert not unrelated(first, second)


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.parametrize(
    "defect",
    [
        "not scaled by the clip norm",
        pytest.param("scaled for the mean", marks=pytest.mark.slow),
        pytest.param("a tenth too small", marks=pytest.mark.slow),
    ],
)
def test_planted_wrong_size_of_noise(defect: str, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    std_of: Callable[[float, float], float] = {
        "not scaled by the clip norm": lambda clip, multiplier: multiplier,
        "scaled for the mean": lambda clip, multiplier: multiplier * clip / 2,
        "a tenth too small": lambda clip, multiplier: 0.9 * multiplier * clip,
    }[defect]
    monkeypatch.setattr(private_gradient, "noise_std", std_of)
    assert not has_std(*released_values(tiny_recipe, "one"))
