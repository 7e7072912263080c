"""All that leaves a training is a function of the released sums: cut those off from the data, and two data
sets that share nothing give the same weights, bit for bit.

One property catches every way around the mechanism: choosing a checkpoint by a private loss, dividing by the
realised batch, skipping empty steps, stopping early, learning rates or scale factors from the data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_support import toy_images, toy_loop

import dp_diffusers as dpd
from dp_diffusers.checkpoint import Saver
from dp_diffusers.diffusion.family import family_of
from dp_diffusers.diffusion.pixel import PixelFamily
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.sampling import PoissonSampler
from dp_diffusers.loop.averaging import Average
from dp_diffusers.loop.steps import rate_factor
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.training import Loop
from engine_support import Receipt

STEPS = 12
Patch = Callable[[pytest.MonkeyPatch], None]
Weights = list[torch.Tensor]


@cache
def plan() -> dpd.Plan:
    """A little noise, few units in a step: now and then a step is empty."""
    return dpd.Plan.calibrate(
        dpd.Budget(epsilon=1.0, delta=1e-3), dpd.DPSGD(steps=STEPS, expected_units=2, population=40)
    )


def cut_off(total: torch.Tensor, keys: RunKeys, step: int, std: float) -> torch.Tensor:
    """In place of the noisy sum: numbers that know nothing of any image."""
    noise = RunKeys.for_tests(5).noise(step, "cut off", total.numel())
    return torch.from_numpy(noise).view(total.shape).float()


class Account:
    """In place of a ledger: a receipt for each step."""

    limit = STEPS

    def __init__(self, lane: bytes) -> None:
        self.lane, self.steps_charged = lane, 0

    def require_affordable(self) -> None:
        """Every step is."""

    def charge(self, step: int) -> Receipt:
        self.steps_charged += 1
        return Receipt(step, self.lane, plan().fingerprint)


def trained(units: int, seed: int, folder: Path) -> tuple[Weights, int]:
    """The weights that would be released, and how many steps were charged."""
    keys = RunKeys.for_tests(seed)
    account = Account(keys.lane)
    training = {"noise_draws": 2, "ema": 0.9, "learning_rate": 1e-2}
    data = toy_images(units, seed=seed)
    loop = toy_loop(
        data, plan=plan(), account=account, keys=keys, folder=RunFolder(folder), training=training
    )
    loop.run()
    return [parameter.detach().clone() for parameter in loop.trainable], account.steps_charged


def data_do_not_show(folder: Path, defect: Patch | None = None) -> bool:
    """The property: 40 units or 3, whatever their images, the same weights from the same number of steps."""
    found = []
    for units, seed in ((40, 1), (3, 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(private_gradient, "noisy", cut_off)
            patch.setattr(Saver, "maybe_save", lambda self, **_: None)
            patch.setattr(Loop, "report", lambda *_: None)
            if defect is not None:
                defect(patch)
            found.append(trained(units, seed, folder))
    (first, steps), (second, others) = found
    return steps == others and all(torch.equal(one, two) for one, two in zip(first, second))


def test_guarantee_nothing_but_released_sums_reaches_the_weights(tmp_path: Path) -> None:
    assert data_do_not_show(tmp_path)


def checkpoint_of_the_lowest_private_loss(patch: pytest.MonkeyPatch) -> None:
    """Keeps the weights of the step with the lowest loss on private images, as `monitor: val/loss` does."""
    row_losses, best = Loop.row_losses, {"loss": float("inf"), "weights": []}

    def noting(self: Loop, rows: Any, step: int) -> torch.Tensor:
        losses = row_losses(self, rows, step)
        if float(losses.detach().mean()) < best["loss"]:
            best["loss"] = float(losses.detach().mean())
            best["weights"] = [parameter.detach().clone() for parameter in self.trainable]
        return losses

    def chosen(self: Average) -> None:
        with torch.no_grad():
            for parameter, weights in zip(self.parameters, best["weights"]):
                parameter.copy_(weights)

    patch.setattr(Loop, "row_losses", noting)
    patch.setattr(Average, "copy_to", chosen)


def early_stopping_by_private_loss(patch: pytest.MonkeyPatch) -> None:
    row_losses, seen = Loop.row_losses, [0.0]

    def noting(self: Loop, rows: Any, step: int) -> torch.Tensor:
        losses = row_losses(self, rows, step)
        seen[0] = float(losses.detach().mean())
        return losses

    save = Loop.check_all_changed

    def stop(self: Loop, before: Any) -> Any:
        if seen[0] < 1.0:
            self.learning_rate = lambda step: 0.0  # type: ignore[method-assign]
        return save(self, before)

    patch.setattr(Loop, "row_losses", noting)
    patch.setattr(Loop, "check_all_changed", stop)


def realised_denominator(patch: pytest.MonkeyPatch) -> None:
    """The mean over the units that came, not over the number that was expected."""
    accumulate, set_grads, came = PrivateGradient.accumulate, private_gradient.set_grads, [0]

    def counting(self: PrivateGradient, losses: Any, owner: torch.Tensor, weight: Any, **given: Any) -> None:
        came[0] += len(owner.unique())
        accumulate(self, losses, owner, weight, **given)

    def divided(parameters: Any, sums: Any, expected: float) -> None:
        set_grads(parameters, sums, max(came[0], 1))
        came[0] = 0

    patch.setattr(PrivateGradient, "accumulate", counting)
    patch.setattr(private_gradient, "set_grads", divided)


def skipped_empty_steps(patch: pytest.MonkeyPatch) -> None:
    """No unit came: no noise, no update, as loops over a data loader do."""
    units, release, empty = PoissonSampler.units, PrivateGradient.release, [False]

    def noting(self: PoissonSampler, step: int) -> np.ndarray:
        found = units(self, step)
        empty[0] = not len(found)
        return found

    def skipping(self: PrivateGradient, step: int, receipt: Any) -> Any:
        released = release(self, step, receipt)
        if empty[0]:
            private_gradient.set_grads(self.parameters, [0 * total for total in released], 1.0)
        return released

    patch.setattr(PoissonSampler, "units", noting)
    patch.setattr(PrivateGradient, "release", skipping)
    patch.setattr(Loop, "check_all_changed", lambda *_: None)  # it would refuse a step without a change


def rate_by_gradient_norm(patch: pytest.MonkeyPatch) -> None:
    """A learning rate that follows the share of clipped units."""
    accumulate, size = PrivateGradient.accumulate, [1.0]

    def noting(self: PrivateGradient, losses: Any, owner: Any, weight: Any, **given: Any) -> None:
        size[0] = float(losses.detach().sum())
        accumulate(self, losses, owner, weight, **given)

    def rate(self: Loop, step: int) -> float:
        factor = rate_factor(step, STEPS, schedule="constant", warmup=0)
        return self.training.learning_rate * factor / (1.0 + size[0])

    patch.setattr(PrivateGradient, "accumulate", noting)
    patch.setattr(Loop, "learning_rate", rate)


def start_from_the_data(patch: pytest.MonkeyPatch) -> None:
    """A bias that begins at the mean private image."""
    run = Loop.run

    def warm(self: Loop) -> None:
        with torch.no_grad():
            mean = self.family.encode(self.data.images).flatten(1).mean(0)
            self.family.network.linear.bias.copy_(mean)  # type: ignore[union-attr]
        self.average = Average(self.trainable, self.training.ema)
        run(self)

    patch.setattr(Loop, "run", warm)


DEFECTS: list[Patch] = [
    checkpoint_of_the_lowest_private_loss,
    early_stopping_by_private_loss,
    realised_denominator,
    skipped_empty_steps,
    rate_by_gradient_norm,
    start_from_the_data,
]


@pytest.mark.planted
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_planted_ways_around_the_mechanism(defect: Patch, tmp_path: Path) -> None:
    assert not data_do_not_show(tmp_path, defect)


def scale_is_public(family: PixelFamily) -> bool:
    """The property: what an image becomes does not depend on the images encoded before it."""
    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(low, low + 60, (5, 8, 8, 1)).astype(np.uint8) for low in (0, 190))
    first = family.encode(dark)
    family.encode(bright)
    again = family.encode(dark)
    return torch.equal(first, again) and bool(np.array_equal(family.decode(first), dark))


def test_guarantee_no_scale_factor_follows_the_data(tiny_base: Callable[..., Any]) -> None:
    family = family_of(tiny_base())
    assert isinstance(family, PixelFamily)
    assert scale_is_public(family)


@pytest.mark.planted
def test_planted_scale_factor_of_the_last_batch(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 / std of a private batch, kept with the model and used for every image after it."""
    encode, decode, scale = PixelFamily.encode, PixelFamily.decode, [1.0]

    def scaled(self: PixelFamily, images: np.ndarray) -> torch.Tensor:
        encoded = encode(self, images) * scale[0]
        scale[0] = 1.0 / float(encode(self, images).std())
        return encoded

    monkeypatch.setattr(PixelFamily, "encode", scaled)
    monkeypatch.setattr(PixelFamily, "decode", lambda self, encoded: decode(self, encoded / scale[0]))
    assert not scale_is_public(family_of(tiny_base()))  # type: ignore[arg-type]


def rate_of(count: int) -> float:
    """The sampling probability when so many units are there."""
    return plan().sampler(count, RunKeys.for_tests(0)).probability


def test_guarantee_the_rate_of_sampling_follows_the_declared_population() -> None:
    assert rate_of(40) == rate_of(39) == plan().sampling_probability


@pytest.mark.planted
def test_planted_rate_from_the_counted_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """q = expected / len(data), as a data loader's length gives it: removing one person changes it."""

    def counted(self: dpd.DPSGD, count: int, keys: RunKeys) -> PoissonSampler:
        return PoissonSampler(count, self.expected_units / count, keys)

    monkeypatch.setattr(dpd.DPSGD, "sampler", counted)
    assert not rate_of(40) == rate_of(39) == plan().sampling_probability
