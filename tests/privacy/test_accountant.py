"""Epsilon against an integral, against known values, and against the other accountant."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from dp_diffusers.errors import DPDiffusersError, ParameterError
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.events import GaussianMechanism, HistogramQuery


def mechanism(probability: float, noise: float, steps: int) -> GaussianMechanism:
    return GaussianMechanism(
        steps=steps,
        population=10**6,
        expected_units=1,
        sampling_probability=probability,
        clip_norm=1.0,
        noise_multiplier=noise,
    )


def delta_by_integral(probability: float, noise: float, epsilon: float) -> float:
    """Hockey-stick divergence of one step, both directions, by numerical integration."""
    grid = np.linspace(-12 * noise, 1 + 12 * noise, 8_001)
    without = stats.norm.pdf(grid, 0, noise)
    present = (1 - probability) * without + probability * stats.norm.pdf(grid, 1, noise)
    directions = ((present, without), (without, present))
    excess = [np.maximum(one - math.exp(epsilon) * other, 0) for one, other in directions]
    return max(float(integrate.simpson(values, x=grid)) for values in excess)


ONE_STEP = [(0.05, 0.8, 1e-5), (0.05, 4.0, 1e-6), (0.5, 1.0, 1e-5), (1.0, 2.0, 1e-5), (0.001, 0.5, 1e-6)]


def follows_the_integral(probability: float, noise: float, delta: float, scale: float = 1.0) -> bool:
    found = scale * accountant.epsilon([mechanism(probability, noise, 1)], delta)
    inside = delta_by_integral(probability, noise, found) <= delta * (1 + 1e-3)
    return inside and delta_by_integral(probability, noise, 0.99 * found) > delta


@pytest.mark.parametrize(("probability", "noise", "delta"), ONE_STEP)
def test_guarantee_one_step_is_the_integral(probability, noise, delta):
    assert follows_the_integral(probability, noise, delta)


@pytest.mark.planted
@pytest.mark.parametrize("scale", [0.98, 1.02])
def test_planted_two_per_cent_off_is_visible(scale):
    assert not any(follows_the_integral(*case, scale=scale) for case in ONE_STEP[1:3])


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.floats(1e-3, 1.0),
    st.floats(0.6, 20.0),
    st.integers(1, 2000),
    st.sampled_from([1e-9, 1e-6, 1e-5, 1e-3]),
)
def test_guarantee_the_accountants_agree(probability, noise, steps, delta):
    record = mechanism(probability, noise, steps)
    by_rdp = accountant.epsilon_rdp([record], delta)
    assume(by_rdp <= 100)  # no budget is larger, and the accountant is slow beyond
    by_pld = accountant.epsilon([record], delta, grid=accountant.grid_for([record], coarsest=1e-3))
    accountant.check_against_rdp(by_pld, by_rdp)


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-3, 1.0), st.floats(0.6, 20.0), st.integers(1, 500), st.integers(1, 500))
def test_more_steps_and_less_noise_cost_more(probability, noise, steps, more):
    curve = accountant.LossCurve(mechanism(probability, noise, 1), "add_remove")
    louder = accountant.LossCurve(mechanism(probability, noise * 1.5, 1), "add_remove")
    cost = curve.epsilon(steps, 1e-5)
    assert cost <= curve.epsilon(steps + more, 1e-5) + 1e-9
    assert louder.epsilon(steps, 1e-5) <= cost * 1.01 + 1e-9
    assert curve.epsilon(0, 1e-5) == 0


def test_grid_is_fine_against_one_step():
    """On the plain 1e-4 grid this is 30 % too high."""
    record = mechanism(0.001, 20.0, 1000)
    found = accountant.epsilon([record], 1e-5)
    assert found == pytest.approx(0.003350, rel=0.01)
    assert accountant.epsilon([record], 1e-5, grid=1e-4) > 1.25 * found


def test_zero_out_costs_the_same_and_replace_about_twice():
    record = mechanism(0.5, 5.0, 20)
    add_remove = accountant.epsilon([record], 1e-5)
    assert accountant.epsilon([record], 1e-5, "zero_out") == pytest.approx(add_remove, rel=1e-6)
    assert 1.8 * add_remove < accountant.epsilon([record], 1e-5, "replace") < 2.3 * add_remove
    with pytest.raises(ParameterError, match="one of add_remove, zero_out, replace"):
        accountant.epsilon([record], 1e-5, "swap")


def test_all_units_in_all_steps_under_replace_is_one_gaussian_of_sensitivity_two():
    """T Gaussians with all units: mu = 2 sqrt(T) / sigma (Dong, Roth and Su 2019)."""
    found = accountant.epsilon([mechanism(1.0, 12.0, 20)], 1e-5, "replace")
    mu = 2 * math.sqrt(20) / 12.0
    normal = stats.norm.cdf
    delta = normal(-found / mu + mu / 2) - math.exp(found) * normal(-found / mu - mu / 2)
    assert delta == pytest.approx(1e-5, rel=0.01)


def test_renyi_has_no_theorem_for_replacement_and_truncation():
    plain = mechanism(0.05, 2.0, 10)
    limited = dataclasses.replace(plain, max_units=200_000)
    assert accountant.has_renyi([plain], "zero_out")
    for record, adjacency in ((plain, "replace"), (limited, "zero_out")):
        assert not accountant.has_renyi([plain, record], adjacency)
        assert accountant.epsilon_rdp([record], 1e-5, adjacency) is None
        assert accountant.cross_check(1e9, [record], 1e-5, adjacency) is None
        with pytest.raises(ParameterError, match="no Rényi divergence"):
            accountant.renyi_of_one_step(record, [2.0], adjacency)


def test_a_gaussian_query_has_the_divergence_of_a_gaussian():
    query = HistogramQuery(classes=10, noise_multiplier=3.0)
    assert accountant.renyi_of_one_step(query, [4.0]) == pytest.approx([4.0 / (2 * 9.0)])


def test_a_curve_composes_what_is_fixed():
    record, query = mechanism(0.05, 2.0, 30), HistogramQuery(classes=3, noise_multiplier=9.0)
    curve = accountant.LossCurve(record, "replace", fixed=[query])
    whole = accountant.epsilon([query, record], 1e-5, "replace")
    assert whole <= curve.epsilon(30, 1e-5) <= 1.002 * whole
    assert curve.epsilon(0, 1e-5) == pytest.approx(accountant.epsilon([query], 1e-5, "replace"), rel=2e-3)
    assert accountant.LossCurve(record, "replace").epsilon(0, 1e-5) == 0.0


def test_the_grid_is_no_finer_than_is_of_use():
    """Where one step loses much, 1e-3 and 1e-4 give the same epsilon to 1e-5."""
    loud = mechanism(0.068, 0.9, 100)
    assert accountant.grid_for([loud]) > 5e-4
    fine, used = accountant.epsilon([loud], 1e-5, grid=1e-4), accountant.epsilon([loud], 1e-5)
    assert fine <= used <= fine * (1 + 1e-5)
    assert accountant.grid_for([mechanism(0.05, 4.5, 100)]) == 1e-4


def test_records_compose():
    record = mechanism(0.5, 5.0, 20)
    both = accountant.epsilon([record, record], 1e-5)
    assert both == pytest.approx(accountant.epsilon([mechanism(0.5, 5.0, 40)], 1e-5), rel=1e-3)
    assert accountant.epsilon([], 1e-5) == pytest.approx(0.0, abs=1e-9)


def test_disagreement_is_a_fault_of_ours():
    accountant.check_against_rdp(1.0, 1.0)
    for by_pld, by_rdp in ((1.02, 1.0), (math.nan, 1.0), (1.0, math.nan)):
        with pytest.raises(DPDiffusersError, match="disagree") as caught:
            accountant.check_against_rdp(by_pld, by_rdp)
        assert caught.value.exit_code == 1


def delta_of_gaussians(noise: float, steps: int, epsilon: float) -> float:
    """Of `steps` unsampled Gaussians (Balle and Wang 2018), in logarithms."""
    mu, log_normal = math.sqrt(steps) / noise, stats.norm.logcdf
    return math.exp(log_normal(mu / 2 - epsilon / mu)) - math.exp(
        epsilon + log_normal(-mu / 2 - epsilon / mu)
    )


def bounded(noise: float, steps: int, delta: float) -> bool:
    """Whether epsilon at `delta` is an upper bound, in both ways that it is computed."""
    record = mechanism(1.0, noise, steps)
    whole = accountant.epsilon([record], delta)
    curve = accountant.LossCurve(record, "add_remove").epsilon(steps, delta)
    return all(delta_of_gaussians(noise, steps, each) <= delta * (1 + 1e-9) for each in (whole, curve))


@pytest.mark.parametrize("delta", [1e-8, 1e-10, 1e-11, 1e-12, 1e-13, 2e-15])
@pytest.mark.parametrize(("noise", "steps"), [(100.0, 10_000), (30.0, 1_000)])
def test_guarantee_epsilon_is_an_upper_bound_at_a_small_delta(noise, steps, delta):
    assert bounded(noise, steps, delta)


@pytest.mark.planted
def test_planted_delta_without_room_for_rounding(monkeypatch):
    monkeypatch.setattr(accountant, "ROUNDING", 0.0)
    assert not bounded(100.0, 10_000, 1e-12), "the planted defect must be visible"


def test_a_delta_within_the_rounding_is_left_to_renyi_or_refused():
    record = mechanism(0.5, 9.0, 50)
    assert accountant.method([record], 1e-9) == "pld"
    assert accountant.method([record], 2e-14) == "rdp"
    assert accountant.epsilon([record], 2e-14) == accountant.epsilon_rdp([record], 2e-14)
    with pytest.raises(ParameterError, match="delta 2e-14 is too small"):
        accountant.epsilon([record], 2e-14, "replace")
    assert accountant.LossCurve(record, "replace").epsilon(50, 2e-14) == math.inf


@pytest.mark.parametrize("delta", [2e-15, 6e-15, 1e-14])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_the_least_delta_has_an_epsilon_after_any_step(steps, delta):
    records = [mechanism(0.5, 20.0, steps), *(HistogramQuery(classes=2, noise_multiplier=30.0),) * 2]
    assert 0 < accountant.epsilon(records, delta) < 10
    curve = accountant.LossCurve(records[0], "add_remove", fixed=records[1:])
    assert 0 < curve.epsilon(steps, delta) < 10


def test_infinite_epsilon_raises(monkeypatch):
    monkeypatch.setattr(accountant, "epsilon_rdp", lambda *_: math.inf)
    with pytest.raises(DPDiffusersError, match="no finite epsilon"):
        accountant.epsilon([mechanism(0.5, 1.0, 10)], 1e-300)


def test_conversion_is_that_of_dp_accounting():
    from dp_accounting.rdp import RdpAccountant

    record = mechanism(0.5, 5.0, 20)
    for order in (2.0, 5.5, 32.0):
        reference = RdpAccountant(orders=[order])
        reference.compose(record.event())
        divergence = 20 * accountant.renyi_of_one_step(record, [order])[0]
        ours = accountant.renyi_to_epsilon(divergence, order, 1e-5)
        assert ours == pytest.approx(reference.get_epsilon(1e-5))


def test_rdp_is_quiet_and_leaves_the_logger_alone(caplog):
    level = logging.getLogger("absl").level
    accountant.epsilon_rdp([mechanism(0.05, 0.4, 400)], 1e-6)
    assert not caplog.records
    assert logging.getLogger("absl").level == level


def test_a_limit_beyond_the_range_of_floats_is_one_clear_line() -> None:
    far = dataclasses.replace(mechanism(0.01, 1.0, 1), population=2_000, expected_units=20, max_units=363)
    with pytest.raises(ParameterError, match="max_units 363 is never met"):
        accountant.epsilon([far], 1e-5)
    with pytest.raises(ParameterError, match="max_units 363 is never met"):
        accountant.LossCurve(far, "zero_out")
