"""The seam between accountant and engine: the accounted event, rebuilt from what a training really did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from dp_accounting.pld import PLDAccountant
from scipy import stats
from torch import Tensor, nn

import dp_diffusers as dpd
from dp_diffusers.checkpoint import Saver
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.diffusion.objective import Draws, Objective
from dp_diffusers.engine import private_gradient
from dp_diffusers.engine.private_gradient import PrivateGradient
from dp_diffusers.engine.sampling import PoissonSampler, TruncatedPoissonSampler
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.recipe import RuntimeSettings, TrainingSettings
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.training import Loop

STEPS, EXPECTED, POPULATION, CLIP = 200, 40, 800, 0.25
ALARM = 1e-6


class Toy:
    """A linear denoiser of 2 x 2 images: a step takes a millisecond."""

    shape = (1, 2, 2)
    encodes_once = False

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(4, 4)
        self.objective = Objective.of(DDPMScheduler())

    def encode(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1

    def row_losses(self, clean: Tensor, labels: Tensor | None, draws: Draws) -> Tensor:
        predicted = self.network(self.objective.noisy(clean, draws).flatten(1)).view_as(clean)
        return self.objective.losses(predicted, clean, draws)


@dataclass
class Execution:
    """What sampler and noise did: inclusions out of chances, noise values, releases."""

    included: int = 0
    chances: int = 0
    releases: int = 0
    noise: list[np.ndarray] = field(default_factory=list)
    largest: int = 0

    @property
    def rate(self) -> float:
        return self.included / self.chances

    @property
    def std(self) -> float:
        return float(np.concatenate(self.noise).std())

    def event(self) -> dp_accounting.DpEvent:
        """The event of the accountant's kind that these numbers describe."""
        step = dp_accounting.PoissonSampledDpEvent(
            self.rate, dp_accounting.GaussianDpEvent(self.std / CLIP / (1 + 1e-4))
        )
        return dp_accounting.SelfComposedDpEvent(step, self.releases)


def note_units(sampler: type[Any], seen: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the units that take part in each step."""
    units = sampler.units

    def noted_units(self: Any, step: int) -> np.ndarray:
        found: np.ndarray = units(self, step)
        seen.included += len(found)
        seen.chances += POPULATION
        seen.largest = max(seen.largest, len(found))
        return found

    monkeypatch.setattr(sampler, "units", noted_units)


def execute(plan: dpd.Plan, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Execution:
    """Runs the real loop on the toy, with the real ledger, and notes what it does."""
    seen = Execution()
    noisy, release = private_gradient.noisy, PrivateGradient.release
    for sampler in (PoissonSampler, TruncatedPoissonSampler):
        note_units(sampler, seen, monkeypatch)

    def noted_noise(total: Tensor, *rest: Any) -> Tensor:
        released = noisy(total, *rest)
        seen.noise.append((released.double() - total).flatten().numpy())
        return released

    def noted_release(self: PrivateGradient, step: int, receipt: Any) -> list[Tensor]:
        seen.releases += 1
        return release(self, step, receipt)

    monkeypatch.setattr(private_gradient, "noisy", noted_noise)
    monkeypatch.setattr(PrivateGradient, "release", noted_release)
    monkeypatch.setattr(Saver, "maybe_save", lambda self, **_: None)
    images = np.random.default_rng(0).integers(0, 255, (POPULATION, 2, 2, 1), dtype=np.uint8)
    data = PrivateImages(
        images=images, labels=None, class_names=None, owner=np.arange(POPULATION), unit_count=POPULATION
    )
    keys = plan.fresh_keys()
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(keys)
        loop = Loop(
            family=Toy(),  # type: ignore[arg-type]
            data=data,
            plan=plan,
            account=account,
            keys=keys,
            training=TrainingSettings(noise_draws=1, learning_rate=1e-3),
            runtime=RuntimeSettings(),
            folder=RunFolder(folder),
            progress=lambda **_: None,
        )
        monkeypatch.setattr(loop, "report", lambda *_: None)
        loop.run()
        assert account.settle() == seen.releases
    return seen


def matches(seen: Execution, planned: dp_accounting.DpEvent) -> bool:
    """The property: kind, count, rate and noise of the planned event are those of the execution."""
    step = planned.event
    sigma = step.event.noise_multiplier
    values = np.concatenate(seen.noise) / (sigma * (1 + 1e-4) * CLIP)
    spread = stats.chi2(values.size).cdf(float((values**2).sum()))
    rate = stats.binomtest(seen.included, seen.chances, step.sampling_probability).pvalue
    kinds = [type(planned), type(step), type(step.event)]
    rebuilt = seen.event()
    return (
        kinds == [type(rebuilt), type(rebuilt.event), type(rebuilt.event.event)]
        and planned.count == seen.releases
        and rate > ALARM
        and ALARM < spread < 1 - ALARM
    )


def epsilon(event: dp_accounting.DpEvent, delta: float) -> float:
    return float(PLDAccountant(value_discretization_interval=1e-3).compose(event).get_epsilon(delta))


def test_plan_event_matches_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=2.0, delta=1e-5),
        dpd.DPSGD(steps=STEPS, expected_units=EXPECTED, population=POPULATION, clip_norm=CLIP),
    )
    seen = execute(plan, monkeypatch, tmp_path)
    assert seen.releases == STEPS
    assert matches(seen, plan.event())
    assert epsilon(seen.event(), 1e-5) == pytest.approx(plan.epsilon, rel=0.1)
    step = plan.event().event
    sigma, rate = step.event.noise_multiplier, step.sampling_probability

    def event(rate: float, sigma: float, count: int) -> dp_accounting.DpEvent:
        sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
        return dp_accounting.SelfComposedDpEvent(sampled, count)

    assert event(rate, sigma, STEPS) == plan.event()
    for wrong in (
        event(1.1 * rate, sigma, STEPS),
        event(rate, 1.2 * sigma, STEPS),
        event(rate, sigma / 1.2, STEPS),
        event(rate, sigma, STEPS - 1),
    ):
        assert not matches(seen, wrong), "the test must be able to tell"


@pytest.mark.slow
def test_plan_event_with_a_limit_matches_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the event is the largest step of the execution, its rate the one of a limited step."""
    most = 48  # often reached, and far enough above the mean to tell a rate from one a fifth larger
    plan = dpd.Plan.calibrate(
        dpd.Budget(epsilon=2.0, delta=1e-5, adjacency="replace"),
        dpd.DPSGD(steps=120, expected_units=EXPECTED, population=POPULATION, clip_norm=CLIP, max_units=most),
    )
    seen, planned = execute(plan, monkeypatch, tmp_path), plan.event()
    step = planned.event
    assert type(step) is dp_accounting.TruncatedSubsampledGaussianDpEvent
    assert (step.truncated_batch_size, step.dataset_size) == (most, POPULATION)
    assert (seen.largest, seen.releases) == (most, planned.count)
    counts = np.arange(POPULATION + 1)

    def fits(rate: float) -> bool:
        """Whether so many units come at this rate; a limited total varies less than a binomial one."""
        limited = (stats.binom.pmf(counts, POPULATION, rate) * np.minimum(counts, most)).sum() / POPULATION
        return bool(stats.binomtest(seen.included, seen.chances, limited).pvalue > ALARM)

    assert fits(step.sampling_probability)
    assert not fits(step.sampling_probability / 1.2)
    assert not fits(step.sampling_probability * 1.2)
    values = np.concatenate(seen.noise) / (step.noise_multiplier * (1 + 1e-4) * CLIP)
    assert ALARM < stats.chi2(values.size).cdf(float((values**2).sum())) < 1 - ALARM
