"""Known defects of published DP diffusion code, planted in the engine: the property that each one breaks
turns red."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dp_diffusers.engine import clipping, noise, private_gradient
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.randomness import RunKeys
from engine_support import CLIP, clipped_sum

pytestmark = pytest.mark.planted

ROWS, DRAWS = 24, 12


def moved(draws_of: Any = None) -> float:
    """How far the clipped sum moves when the first owner leaves; `draws_of(units)` gives each unit its
    noise."""
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    images = torch.randn(ROWS, 6)
    owner = torch.arange(ROWS // DRAWS).repeat_interleave(DRAWS)

    def losses(index: Tensor) -> Tensor:
        return (net(images[index]) * 50).square().sum(1)

    weight = torch.full((ROWS,), 1 / DRAWS)
    whole = clipped_sum(net, losses, [list(range(ROWS))], owner, weight)
    return float((whole - clipped_sum(net, losses, [list(range(DRAWS, ROWS))], owner, weight)).norm())


def bounded(distance: float) -> bool:
    return distance <= CLIP * (1 + 1e-5)


def test_the_property_holds_as_built() -> None:
    assert bounded(moved())


def test_planted_clipping_of_each_draw_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the K draws clipped on its own, weights or not: a person moves the sum by up to K C."""

    def each_row(owner: Tensor) -> RowOwners:
        return RowOwners(ids=list(range(len(owner))), index=torch.arange(len(owner)), fold=1)

    monkeypatch.setattr(private_gradient.RowOwners, "of", staticmethod(each_row))
    assert not bounded(moved())


def test_planted_missing_clip_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        clipping.ClippedSum,
        "_norms",
        lambda self, batch: torch.full((len(batch.ids), 1), 1e-9, dtype=torch.float64),
    )
    assert not bounded(moved())


def test_planted_unmasked_nan_reaches_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Any, batch: Any, factors: Tensor, usable: Tensor) -> None:
        for gradient, total in zip(batch.gradients, self._totals):
            total += torch.tensordot(factors[:, 0], gradient.double(), 1)

    gradients = torch.tensor([[float("nan"), 1.0], [0.1, 0.1]])
    results = []
    for plant in (False, True):
        if plant:
            monkeypatch.setattr(clipping.ClippedSum, "_contract", careless)
        box = clipping.ClippedSum([torch.zeros(2)], CLIP, "flat")
        box.add([0, 1], [gradients.clone()], torch.ones(2, dtype=torch.bool))
        results.append(bool(box.take()[0][0].isfinite().all()))
    assert results == [True, False]


def positional(units: np.ndarray, count: int) -> np.ndarray:
    """Draws by position in the batch from a public seed."""
    return np.random.default_rng(0).standard_normal((len(units), count)).astype(np.float32)


def per_unit(units: np.ndarray, count: int) -> np.ndarray:
    return RunKeys.for_tests(0).normal("diffusion noise", 0, units, count)


def moved_with_draws(draw: Any) -> float:
    """One step in which each unit's input gets its own noise: how far does the sum move when unit 0
    leaves?"""
    torch.manual_seed(0)
    net, images = nn.Linear(6, 3), torch.randn(ROWS, 6)

    def total(units: np.ndarray) -> Tensor:
        noisy = images[units] + torch.from_numpy(draw(units, 6))
        owner = torch.from_numpy(units)
        return clipped_sum(
            net,
            lambda index: net(noisy[index]).square().sum(1) * 50,
            [list(range(len(units)))],
            owner,
            torch.ones(len(units)),
        )

    return float((total(np.arange(ROWS)) - total(np.arange(1, ROWS))).norm())


def test_planted_draws_by_batch_position_are_noticed() -> None:
    assert bounded(moved_with_draws(per_unit))
    assert moved_with_draws(positional) > 2 * CLIP


def test_planted_noise_on_the_mean_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise scaled for the mean but added to the sum: the statistics test rejects it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "statistics"))
    import test_noise_statistics as statistics

    right = noise.noise_std
    monkeypatch.setattr(private_gradient, "noise_std", lambda clip, multiplier: 0.9 * right(clip, multiplier))
    with pytest.raises(AssertionError):
        statistics.test_guarantee_noise_has_the_accounted_size()


def test_planted_wrong_rate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "statistics"))
    import test_sampling_statistics as statistics

    sampler = statistics.PoissonSampler
    monkeypatch.setattr(
        statistics, "PoissonSampler", lambda units, rate, keys: sampler(units, 1.1 * rate, keys)
    )
    with pytest.raises(AssertionError):
        statistics.test_guarantee_inclusion_rate_is_the_accounted_probability()


def test_planted_batches_of_fixed_size_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled batches of one size, accounted as Poisson sampling."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "statistics"))
    import test_sampling_statistics as statistics

    class Shuffled:
        def __init__(self, units: int, rate: float, keys: object) -> None:
            self.size, self.units_in_all = round(units * rate), units

        def units(self, step: int) -> np.ndarray:
            return np.random.default_rng(step).permutation(self.units_in_all)[: self.size]

    monkeypatch.setattr(statistics, "PoissonSampler", Shuffled)
    with pytest.raises(AssertionError):
        statistics.test_batch_sizes_vary_as_poisson_sampling_does()
