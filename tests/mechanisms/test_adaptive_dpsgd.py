"""DP-SGD with adaptive clipping: its record, its plan, its certificate, and the theorem behind them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

import dp_diffusers as dpd
from dp_diffusers.errors import ParameterError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.events import record_from_dict
from dp_diffusers.privacy.quantile_noise import gradient_noise
from dp_diffusers.privacy.record_checks import problems_of_record

SIZES = {"steps": 20, "expected_units": 50, "population": 500}
ADAPTIVE = {**SIZES, "clipping": "adaptive"}
BUDGET = dpd.Budget(2.0, 1e-4)


def test_what_was_not_said_has_a_public_default() -> None:
    of = DPSGD(**ADAPTIVE)
    assert (of.target_quantile, of.quantile_rate, of.quantile_noise) == (0.5, 0.2, 2.5)
    chosen = DPSGD(**ADAPTIVE, target_quantile=0.8, quantile_noise=9.0)
    assert (chosen.target_quantile, chosen.quantile_rate, chosen.quantile_noise) == (0.8, 0.2, 9.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("target_quantile", value) for value in (0.0, 1.0, math.nan, "half", True)),
        *(("quantile_rate", value) for value in (0.0, -1.0, math.inf)),
        *(("quantile_noise", value) for value in (0.0, math.nan, "1")),
    ],
)
def test_numbers_of_the_quantile_are_checked(field: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=field):
        DPSGD(**ADAPTIVE, **{field: value})


@pytest.mark.parametrize("clipping", ["flat", "automatic", "per_layer"])
def test_a_quantile_of_another_clipping_is_refused(clipping: str) -> None:
    with pytest.raises(ParameterError, match=f"quantile_noise has no effect with clipping '{clipping}'"):
        DPSGD(**SIZES, clipping=clipping, quantile_noise=3.0)


def test_the_record_names_the_rule_and_only_adaptive_has_more_fields() -> None:
    flat = DPSGD(**SIZES).record(1.0).to_dict()
    assert not {"target_quantile", "quantile_rate", "quantile_noise"} & set(flat)
    record = DPSGD(**ADAPTIVE).record(1.0)
    assert record.to_dict()["clipping"] == "adaptive"
    assert record_from_dict(record.to_dict()) == record
    with pytest.raises(ParameterError, match="expected quantile_noise to be a number"):
        record_from_dict({**record.to_dict(), "quantile_noise": None})


@pytest.mark.slow
@pytest.mark.parametrize("clipping", ["automatic", "per_layer", "adaptive"])
def test_guarantee_event_and_epsilon_are_those_of_flat_clipping(clipping: str) -> None:
    flat = Plan.calibrate(BUDGET, DPSGD(**SIZES))
    plan = Plan.calibrate(BUDGET, DPSGD(**SIZES, clipping=clipping))
    assert plan.noise_multiplier == flat.noise_multiplier
    assert plan.event() == flat.event()
    assert plan.epsilon == flat.epsilon
    assert plan.fingerprint != flat.fingerprint
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.mechanism == plan.mechanism
    assert f"{math.floor(1e4 * plan.noise_multiplier) / 1e4:.4f}" in plan.explain()


def test_a_count_that_costs_too_much_is_refused_before_anything_is_touched() -> None:
    with pytest.raises(ParameterError, match="quantile_noise above half the noise multiplier") as caught:
        Plan.calibrate(BUDGET, DPSGD(**ADAPTIVE, quantile_noise=0.3))
    assert "raise mechanism.quantile_noise" in str(caught.value.hint)
    plan = Plan.calibrate(BUDGET, DPSGD(**ADAPTIVE))
    document = plan.to_dict()
    document["mechanism"]["quantile_noise"] = plan.noise_multiplier / 2
    with pytest.raises(ParameterError, match="quantile_noise above half the noise multiplier"):
        Plan.from_json(document)


def test_verification_looks_at_the_noise_of_the_count() -> None:
    record = DPSGD(**ADAPTIVE).record(1.0)
    assert list(problems_of_record(record, 1e-4)) == []
    low = dataclasses.replace(record, quantile_noise=0.5)
    (problem,) = problems_of_record(low, 1e-4)
    assert "quantile_noise above half the noise multiplier, 0.5, got 0.5" in problem


def divergence(mean: np.ndarray, other: np.ndarray, rate: float, epsilon: float) -> float:
    """Hockey-stick of (1-q) N(0) + q N(mean) against (1-q) N(0) + q N(other) in the plane, by integration."""

    def excess(y: float, x: float) -> float:
        def density(centre: np.ndarray) -> float:
            moved = np.array([x, y]) - centre
            return float(np.exp(-(moved @ moved) / 2) / (2 * np.pi))

        first = (1 - rate) * density(np.zeros(2)) + rate * density(mean)
        second = (1 - rate) * density(np.zeros(2)) + rate * density(other)
        return max(0.0, first - math.exp(epsilon) * second)

    value, _ = integrate.dblquad(excess, -6, 6, -6, 6, epsabs=1e-5)
    return float(value)


def of_one_gaussian(multiplier: float, rate: float, epsilon: float) -> float:
    """The same for one dimension, presence of a unit: what the accountant composes."""
    grid = np.linspace(-12, 12, 200_001)
    base, moved = stats.norm.pdf(grid), stats.norm.pdf(grid, 1 / multiplier)
    excess = np.maximum(0, (1 - rate) * base + rate * moved - math.exp(epsilon) * base)
    return float(np.trapezoid(excess, grid))


@pytest.mark.parametrize("half", [0.5, -0.5])
def test_guarantee_sum_and_count_lose_what_one_gaussian_of_the_accounted_noise_loses(half: float) -> None:
    """By integration over both coordinates, each in units of its own noise, at the worst a unit can do."""
    accounted, count, rate, epsilon = 0.9, 0.6, 0.3, 0.4
    worst = np.array([1 / gradient_noise(accounted, count), half / count])
    found = divergence(worst, np.zeros(2), rate, epsilon)
    claimed = of_one_gaussian(accounted, rate, epsilon)
    assert found == pytest.approx(claimed, rel=5e-3)
    careless = np.array([1 / accounted, half / count])
    assert divergence(careless, np.zeros(2), rate, epsilon) > 1.2 * claimed


def test_guarantee_replacing_a_unit_is_no_worse_than_two_opposite_ones() -> None:
    """The worst pair of the accountant is two opposite vectors of the length that one unit has at most."""
    accounted, count, rate, epsilon = 0.9, 0.6, 0.3, 0.4
    gradient = 1 / gradient_noise(accounted, count)
    opposite = divergence(np.array([1 / accounted, 0]), np.array([-1 / accounted, 0]), rate, epsilon)
    for other in ([-gradient, -0.5 / count], [gradient, -0.5 / count], [-gradient, 0.5 / count]):
        found = divergence(np.array([gradient, 0.5 / count]), np.array(other), rate, epsilon)
        assert found <= opposite * (1 + 5e-3)
