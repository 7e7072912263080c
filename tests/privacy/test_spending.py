"""How runs add up: the filter, the sum, and the halves of delta."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_diffusers.privacy.accountant import renyi_to_epsilon
from dp_diffusers.privacy.budget import Cap
from dp_diffusers.privacy.spending import Cost, Terms, total, within_cap

TERMS = Terms(unit="image", adjacency="add_remove", cap=Cap(3.0, 1e-5), order=8.0)
costs = st.builds(
    lambda epsilon, delta, renyi: Cost(epsilon=epsilon, delta=delta, epsilon_at_cap=epsilon, renyi=renyi),
    st.floats(0.0, 2.0),
    st.sampled_from([1e-7, 1e-6, 1e-5]),
    st.floats(0.0, 1.0),
)


def cost(epsilon: float, renyi: float, delta: float = 1e-5) -> Cost:
    return Cost(epsilon=epsilon, delta=delta, epsilon_at_cap=epsilon, renyi=renyi)


def test_one_run_costs_what_it_costs():
    assert total([cost(1.0, 0.2)], TERMS).rule == "pld"
    nothing = Cost.nothing(1e-5)
    assert total([nothing, cost(1.0, 0.2), nothing], TERMS).epsilon == 1.0
    assert total([nothing], TERMS).rule == "none"


@pytest.mark.parametrize("cap", [Cap(1.0, 1e-3), None])
def test_guarantee_a_run_whose_steps_have_epsilon_zero_still_has_its_delta(cap):
    """A few steps of a small chance can be (0, delta)-private: they add up all the same."""
    terms = Terms(unit="image", adjacency="replace", cap=cap, order=None)
    few = Cost(epsilon=0.0, delta=9e-4, epsilon_at_cap=0.0, renyi=None)
    assert total([few, Cost.nothing(9e-4)], terms).rule in ("pld", "sum")
    both = total([few, few], terms)
    assert both.epsilon == math.inf if cap else both.delta == pytest.approx(1.8e-3)


@pytest.mark.parametrize(("delta", "runs"), [(1e-5, 3), (1e-6, 7), (1e-7, 9), (0.1, 3)])
def test_deltas_add_up_as_they_are_written(delta: float, runs: int):
    """In binary fractions three times 1e-5 is above 3e-5."""
    cap = Cap(50.0, float(f"{runs * delta:.3g}"))
    terms = Terms(unit="image", adjacency="replace", cap=cap, order=None)
    few = Cost(epsilon=1.0, delta=delta, epsilon_at_cap=1.0, renyi=None)
    assert within_cap([few] * runs, terms)
    assert not within_cap([few] * (runs + 1), terms)


def test_several_runs_by_the_filter_at_half_of_delta():
    spent = total([cost(1.0, 0.2), cost(1.0, 0.3)], TERMS)
    assert (spent.rule, spent.delta) == ("filter", 1e-5)
    assert spent.epsilon == pytest.approx(renyi_to_epsilon(0.5, 8.0, 5e-6))


def test_several_runs_by_the_sum_where_it_is_smaller():
    small = [cost(0.1, 0.2, 1e-6)] * 3
    assert total(small, TERMS).rule == "sum"
    assert total(small, TERMS).epsilon == pytest.approx(0.3)
    assert total([cost(0.1, 0.2, 1e-6)] * 6, TERMS).rule == "filter", "six deltas exceed half of the cap's"


@given(st.lists(costs, max_size=6), costs)
def test_guarantee_a_further_run_never_makes_room(runs, another):
    if within_cap([*runs, another], TERMS) and len(runs) != 1:
        assert within_cap(runs, TERMS)


@given(st.lists(costs, min_size=2, max_size=6))
def test_guarantee_one_of_the_rules_admits_on_its_own(runs):
    if within_cap(runs, TERMS):
        charged = [run for run in runs if run.epsilon > 0 or run.renyi > 0]
        by_filter = renyi_to_epsilon(sum(run.renyi for run in charged), 8.0, 5e-6) <= 3.0
        by_sum = sum(run.epsilon for run in charged) <= 3.0 and sum(run.delta for run in charged) <= 5e-6
        assert by_filter or by_sum or len(charged) < 2
