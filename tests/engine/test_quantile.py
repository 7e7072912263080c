"""The clip norm that follows a quantile: its noise, its count, its state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from adaptive_support import MULTIPLIER, Noise, a_step, mechanism, noise_of_empty_steps
from dp_diffusers.engine.noise import SAFETY
from dp_diffusers.engine.quantile import FARTHEST, Quantile
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.privacy.quantile_noise import gradient_noise
from engine_support import Receipt, make_box

ALARM = 1e-6
STEPS = 1_200
QUANTILE = Quantile(target=0.5, rate=0.2, noise=1e-6)


@pytest.fixture(scope="module")
def noise() -> Noise:
    return noise_of_empty_steps(mechanism(), STEPS)


def is_std(values: np.ndarray, std: float) -> bool:
    """Chi-squared test of a variance, two-sided, with a false alarm below 1e-6."""
    statistic, free = float((values**2).sum()) / std**2, values.size
    tail = min(stats.chi2.cdf(statistic, free), stats.chi2.sf(statistic, free))
    return bool(2 * tail > ALARM)


def test_guarantee_the_gradient_gets_the_raised_noise_of_the_clip_norm_of_its_step(noise: Noise) -> None:
    raised = gradient_noise(MULTIPLIER, 0.9)
    assert raised > 1.3 * MULTIPLIER
    assert len(set(noise.clip_norms.tolist())) > STEPS / 2, "the clip norm moves"
    assert is_std(noise.gradient, raised * (1 + SAFETY))
    assert not is_std(noise.gradient, 0.9 * raised)
    assert not is_std(noise.gradient, MULTIPLIER), "the accounted noise alone is too little"
    assert stats.kstest(noise.gradient.flatten(), "norm", args=(0, raised)).pvalue > ALARM


def test_guarantee_the_count_gets_its_own_noise_and_is_independent(noise: Noise) -> None:
    assert is_std(noise.count, 0.9 * (1 + SAFETY))
    assert not is_std(noise.count, 0.9 * 0.87)
    assert not is_std(noise.count, 0.9 * 1.15)
    for column in noise.gradient.T:
        assert abs(np.corrcoef(column, noise.count)[0, 1]) < 5 / math.sqrt(STEPS)
        assert abs(np.corrcoef(column[1:], noise.count[:-1])[0, 1]) < 5 / math.sqrt(STEPS)
    assert abs(np.corrcoef(noise.count[1:], noise.count[:-1])[0, 1]) < 5 / math.sqrt(STEPS)


@pytest.mark.parametrize(("accounted", "count"), [(0.5, 0.3), (1.2, 0.9), (3.0, 51.2), (1.0, 0.5000001)])
def test_guarantee_the_two_noises_together_are_the_accounted_one(accounted: float, count: float) -> None:
    raised = gradient_noise(accounted, count)
    assert raised**-2 + (2 * count) ** -2 == pytest.approx(accounted**-2, rel=1e-9)


@pytest.mark.parametrize("count", [0.6, 0.3, 0.0, -1.0, math.nan, math.inf])
def test_a_count_that_costs_everything_is_refused(count: float) -> None:
    with pytest.raises(ParameterError, match="quantile_noise"):
        gradient_noise(1.2, count)


def quiet(target: float = 0.5, rate: float = 0.2) -> float:
    """The clip norm after a step of three units, two of which are unclipped, with next to no noise."""
    module, keys = nn.Linear(1, 1, bias=False), RunKeys.for_tests(4)
    quantile = Quantile(target=target, rate=rate, noise=1e-6)
    box = make_box(module, clip_norm=0.5, clipping="adaptive", quantile=quantile, keys=keys)
    box.accumulate(module(torch.tensor([[0.1], [0.5], [0.6]])).flatten(), torch.arange(3), torch.ones(3))
    box.release(0, Receipt(0, keys.lane))
    return float(box.state_dict()["clip_norm"])


def test_the_next_clip_norm_follows_the_count_over_the_expected_units() -> None:
    """Two of three units stay unclipped: the sum of halves is 1/2, of four expected units."""
    share = 0.5 / 4 + 0.5
    assert quiet() == pytest.approx(0.5 * math.exp(-0.2 * (share - 0.5)), rel=1e-5)
    assert quiet(0.9, 1.0) == pytest.approx(0.5 * math.exp(0.9 - share), rel=1e-5)


def test_a_unit_that_is_not_finite_is_not_counted() -> None:
    keys = RunKeys.for_tests(4)
    states = []
    for bad in ([], [math.nan]):
        module = nn.Linear(1, 1, bias=False)
        box = make_box(
            module, clip_norm=0.5, clipping="adaptive", quantile=QUANTILE, keys=RunKeys.for_tests(4)
        )
        inputs = torch.tensor([0.1, 0.2, *bad])[:, None]
        rows = len(inputs)
        box.accumulate(module(inputs).flatten(), torch.arange(rows), torch.ones(rows))
        box.release(0, Receipt(0, keys.lane))
        states.append(box.state_dict())
    assert states[0] == states[1]


def test_the_clip_norm_finds_the_quantile_and_stays_within_bounds() -> None:
    keys, module = RunKeys.for_tests(4), nn.Linear(1, 1, bias=False)
    quantile = Quantile(target=0.7, rate=0.5, noise=0.5)
    box = make_box(
        module, clip_norm=20.0, clipping="adaptive", quantile=quantile, keys=keys, expected_units=10
    )
    inputs = torch.linspace(0.1, 1.0, 10)[:, None]
    for step in range(60):
        box.accumulate(module(inputs).flatten(), torch.arange(10), torch.ones(10))
        box.release(step, Receipt(step, keys.lane))
    assert 0.5 < box.state_dict()["clip_norm"] < 0.95
    assert quantile.followed(1.0, 1.0, 1e9) == 1e9 / FARTHEST
    assert quantile.followed(1.0, 0.0, 1e-9) == 1e-9 * FARTHEST
    fast = Quantile(target=0.5, rate=2000.0, noise=0.5)
    assert (fast.followed(1e-6, 0.0, 1.0), fast.followed(1e6, 1.0, 1.0)) == (FARTHEST, 1 / FARTHEST)


def test_guarantee_state_and_resume_go_on_with_the_released_clip_norm() -> None:
    of = mechanism()
    state = a_step(of, [0.1, 2.0])
    assert set(state) == {"clip_norm"}
    assert state["clip_norm"] != of.clip_norm
    keys = RunKeys.for_tests(9)
    box = of.private_gradient(nn.Linear(4_000, 1, bias=False), keys, MULTIPLIER, "plan")
    box.load_state_dict({"clip_norm": 7.0})
    (released,) = box.release(1, Receipt(1, keys.lane))
    assert is_std(released.numpy(), 7.0 * gradient_noise(MULTIPLIER, 0.9))
    assert box.mean_noise_std == pytest.approx(7.0 * gradient_noise(MULTIPLIER, 0.9) / 1_000, rel=1e-3)


def test_a_state_of_another_clipping_is_refused_and_a_step_keeps_its_clip_norm() -> None:
    module = nn.Linear(1, 1, bias=False)
    flat = make_box(module)
    with pytest.raises(ParameterError, match="does not belong to this clipping"):
        flat.load_state_dict({"clip_norm": 1.0})
    assert flat.state_dict() == {}
    box = make_box(module, clipping="adaptive", quantile=QUANTILE)
    box.accumulate(module(torch.ones(1, 1)).flatten(), torch.arange(1), torch.ones(1))
    with pytest.raises(GuaranteeError, match="cannot change once the step has begun"):
        box.load_state_dict({"clip_norm": 1.0})


def test_a_quantile_and_adaptive_clipping_go_together() -> None:
    for changes, message in (
        ({"clipping": "adaptive"}, "'adaptive' needs quantile"),
        ({"clipping": "flat", "quantile": QUANTILE}, "'flat' takes no quantile"),
    ):
        with pytest.raises(ParameterError, match=message):
            make_box(nn.Linear(1, 1), **changes)
    with pytest.raises(ParameterError, match="target_quantile"):
        Quantile(target=1.5, rate=0.2, noise=1.0)
