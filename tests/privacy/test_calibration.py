"""The smallest noise, the table of prefixes, and the number of steps that a budget carries."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting import pld

from dp_diffusers.errors import BudgetError, DPDiffusersError
from dp_diffusers.privacy import accountant
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.calibration import (
    PrefixTable,
    calibrate_noise,
    histogram_noise,
    largest_steps,
    prefix_table,
)
from dp_diffusers.privacy.events import GaussianMechanism, HistogramQuery

CASES = [
    (0.05, 400, 1.0, 1e-6, 4.3739),
    (0.05, 400, 10.0, 1e-6, 0.8742),
    (4096 / 60000, 200, 1.0, 1e-5, 3.7773),
    (4096 / 60000, 200, 10.0, 1e-5, 0.8188),
]
WIDE = [(0.05, 400, 0.01, 1e-6), (1e-3, 10**6, 2.0, 1e-5), (1.0, 100, 0.5, 1e-5), (0.001, 1000, 1.0, 1e-5)]
WIDE += [(1.0, 1, 0.01, 1e-14), (0.3, 1000, 100.0, 1e-5), (0.5, 10**4, 8.0, 1e-3)]


def at(probability: float, steps: int):
    def record(noise: float) -> GaussianMechanism:
        return GaussianMechanism(
            steps=steps,
            population=10**6,
            expected_units=1,
            sampling_probability=probability,
            clip_norm=1.0,
            noise_multiplier=noise,
        )

    return record


@pytest.mark.parametrize(("probability", "steps", "budget", "delta", "noise"), CASES)
def test_known_values(probability, steps, budget, delta, noise):
    found = calibrate_noise(budget, delta, at(probability, steps), "add_remove")
    assert found.noise_multiplier == pytest.approx(noise, rel=2e-3)
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(at(probability, steps)(found.noise_multiplier).event())
    exact = accountant.get_epsilon(delta)  # on a grid of 1e-4, finer than ours where the noise is small
    assert exact * (1 - 1e-9) <= found.epsilon <= exact * (1 + 1e-5)
    assert budget * 0.998 <= found.epsilon <= budget < found.epsilon_rdp


@pytest.mark.slow
@pytest.mark.parametrize(("probability", "steps", "budget", "delta"), WIDE)
def test_guarantee_within_the_budget_and_one_per_cent(probability, steps, budget, delta):
    found = calibrate_noise(budget, delta, at(probability, steps), "add_remove")
    assert 0.99 * budget <= found.epsilon <= budget
    less = at(probability, steps)(found.noise_multiplier * 0.99)
    assert epsilon([less], delta) > found.epsilon


def test_tiny_epsilon():
    found = calibrate_noise(0.01, 1e-6, at(0.05, 400), "zero_out")
    assert 0.0099 <= found.epsilon <= 0.01


def test_too_little_noise_is_refused():
    with pytest.raises(BudgetError, match=r"below 0\.3") as caught:
        calibrate_noise(100.0, 1e-5, at(1.0, 1), "add_remove")
    assert "more steps" in caught.value.hint


@pytest.mark.planted
def test_planted_wrong_accountant_is_refused(monkeypatch):
    monkeypatch.setattr(accountant, "epsilon_rdp", lambda *_: 0.5)
    with pytest.raises(DPDiffusersError, match="disagree"):
        calibrate_noise(1.0, 1e-6, at(0.05, 40), "add_remove")


def test_prefix_table_is_rounded_up_and_ends_at_the_certified():
    record = at(0.05, 400)(4.3772)
    certified = epsilon([record], 1e-6)
    table = prefix_table(record, 1e-6, "add_remove", certified)
    assert table.after(0) == 0
    assert table.after(400) == certified
    assert 40 <= len(table.steps) <= 51
    assert list(table.epsilons) == sorted(table.epsilons)
    for steps in (1, 2, 33, 57, 199, 331):
        exact = epsilon([at(0.05, steps)(4.3772)], 1e-6)
        assert exact <= table.after(steps) * (1 + 1e-6)
        assert table.after(steps) <= exact * 1.25 + 0.02
    with pytest.raises(DPDiffusersError, match="beyond"):
        table.after(401)


def test_table_of_one_step():
    record = at(0.5, 1)(2.0)
    certified = epsilon([record], 1e-6)
    assert prefix_table(record, 1e-6, "add_remove", certified) == PrefixTable((1,), (certified,))


@pytest.mark.parametrize("largest", [10, 11, 12, 64, 1000, 12345])
def test_largest_steps(largest):
    assert largest_steps(lambda steps: steps <= largest, 10) == largest


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
@pytest.mark.parametrize(("budget", "delta"), [(1.0, 1e-6), (10.0, 1e-5), (0.3, 1e-8)])
def test_a_histogram_alone_costs_a_tenth(budget, delta, adjacency):
    noise = histogram_noise(budget, delta, adjacency)
    found = epsilon([HistogramQuery(classes=10, noise_multiplier=noise)], delta, adjacency)
    assert 0.099 * budget <= found <= 0.1 * budget * (1 + 1e-4)


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_guarantee_queries_and_steps_share_the_budget(adjacency):
    query = HistogramQuery(classes=10, noise_multiplier=histogram_noise(1.0, 1e-5, adjacency))
    alone = calibrate_noise(1.0, 1e-5, at(0.5, 50), adjacency)
    found = calibrate_noise(1.0, 1e-5, at(0.5, 50), adjacency, [query])
    assert found.noise_multiplier > alone.noise_multiplier
    assert epsilon([at(0.5, 50)(found.noise_multiplier), query], 1e-5, adjacency) <= 1.0
    assert 0.998 <= found.epsilon <= 1.0
    assert (found.epsilon_rdp is None) == (adjacency == "replace")


@pytest.mark.planted
def test_planted_query_left_out_of_the_budget():
    """Noise found for the steps alone, with the query beside it, spends more than the budget."""
    query = HistogramQuery(classes=10, noise_multiplier=histogram_noise(1.0, 1e-5, "add_remove"))
    alone = calibrate_noise(1.0, 1e-5, at(0.5, 50), "add_remove")
    assert epsilon([at(0.5, 50)(alone.noise_multiplier), query], 1e-5) > 1.0


def test_queries_that_spend_all_are_refused():
    query = HistogramQuery(classes=10, noise_multiplier=2.0)
    with pytest.raises(BudgetError, match=r"side queries alone \(histogram\) spend epsilon"):
        calibrate_noise(1.0, 1e-6, at(0.05, 40), "add_remove", [query])


def test_the_prefix_table_begins_with_the_queries():
    query, record = HistogramQuery(classes=10, noise_multiplier=40.0), at(0.5, 50)(20.0)
    certified = epsilon([query, record], 1e-5)
    table = prefix_table(record, 1e-5, "add_remove", certified, queries=[query], entries=4)
    assert table.after(0) == pytest.approx(epsilon([query], 1e-5), rel=0.01)
    assert 0 < table.after(0) < table.after(1) < table.after(50) == certified


@pytest.mark.slow
def test_few_units_of_very_many_are_planned_with_little_memory():
    """Of the losses of one step, which go far where the noise is small; a coarser grid is a bound as well."""
    record = GaussianMechanism(
        steps=1000,
        population=10**6,
        expected_units=16,
        sampling_probability=16e-6,
        clip_norm=1.0,
        noise_multiplier=0.46,
    )
    grid = accountant.grid_for([record])
    assert record.step_range() / grid <= accountant.MOST_CELLS * (1 + 1e-9)
    bound, finer = epsilon([record], 1e-7), epsilon([record], 1e-7, grid=grid / 4)
    assert finer <= bound <= finer * 1.001


def test_one_unit_of_two_thousand_million_is_refused_not_run_out_of_memory_for():
    with pytest.raises(BudgetError, match=r"a noise multiplier below 0\.3"):
        calibrate_noise(1.0, 1e-10, at(2.0**-31, 1000), "add_remove")
