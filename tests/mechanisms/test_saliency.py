"""The query for layers: what a unit can change, how much noise there is, what it opens for, what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dp_diffusers.engine.noise import noise_std
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError
from dp_diffusers.mechanisms import saliency
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.saliency import (
    NAME,
    QueryKeys,
    energies,
    released_energies,
    saliency_gradient,
    saliency_query,
)
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.accountant import epsilon, renyi_of_one_step
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.events import GaussianMechanism, training_record
from dp_diffusers.privacy.receipt import Receipt
from dp_diffusers.privacy.spending import Terms

SIZES: dict[str, Any] = {"steps": 5, "expected_units": 10, "population": 100, "clip_norm": 0.5}
QUERY = GaussianMechanism(**{**SIZES, "steps": 1}, name=NAME, sampling_probability=0.1, noise_multiplier=2.0)


def receipt(keys: RunKeys, **changed: Any) -> Receipt:
    facts = {"step": 0, "lane": keys.lane, "plan_fingerprint": "plan", "mechanism": NAME}
    return Receipt(**{**facts, **changed})


class Layers(nn.Module):
    """Two layers, 20,000 numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.two(torch.tanh(self.one(rows)))


def box_of(network: nn.Module, keys: RunKeys) -> Any:
    return saliency_gradient(network, QUERY, QueryKeys(keys), "plan")


def released(inputs: torch.Tensor, owner: list[int], keys: RunKeys) -> list[torch.Tensor]:
    """What the query releases of one row for each input."""
    network = Layers()
    box = box_of(network, keys)
    if len(inputs):
        weight = 1.0 / torch.bincount(torch.tensor(owner))[torch.tensor(owner)]
        box.accumulate(network(inputs).square().sum(1), torch.tensor(owner), weight)
    found: list[torch.Tensor] = box.release(0, saliency._OfTheQuery(receipt(keys)))
    return found


def moved(inputs: torch.Tensor, owner: list[int]) -> float:
    """How far the release moves, noise being the same, when the rows of the last unit are not there."""
    last = max(owner)
    kept = [index for index, unit in enumerate(owner) if unit != last]
    whole = released(inputs, owner, RunKeys.for_tests(0))
    less = released(inputs[kept], [owner[index] for index in kept], RunKeys.for_tests(0))
    return float(sum((a.double() - b.double()).square().sum() for a, b in zip(whole, less))) ** 0.5


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
def test_guarantee_one_unit_moves_the_query_by_at_most_the_clip_norm(scale: float) -> None:
    torch.manual_seed(1)
    inputs = torch.randn(6, 100)
    inputs[2:] *= scale
    assert moved(inputs, [0, 1, 2, 2, 2, 2]) <= QUERY.clip_norm * 1.001


def test_guarantee_a_unit_that_is_not_finite_adds_nothing() -> None:
    inputs = torch.ones(2, 100)
    inputs[1, 3] = float("nan")
    assert moved(inputs, [0, 1]) < 1e-5  # the arithmetic of one row and of two


def noise_of(keys: RunKeys) -> np.ndarray:
    empty = torch.zeros(0, 100)
    return np.concatenate([part.numpy().ravel() for part in released(empty, [], keys)])


def test_guarantee_the_noise_is_the_accounted_one() -> None:
    found = noise_of(RunKeys.for_tests(0)).std() / noise_std(QUERY.clip_norm, QUERY.noise_multiplier)
    assert abs(found - 1.0) < 0.03  # six deviations of 20,000 draws


def shares_draws_with_step_zero(keys: RunKeys, asked: Any) -> bool:
    """Whether the query samples, diffuses or adds noise as the first step of the training does."""
    units = np.arange(50)
    pairs = (
        (
            keys.coarse_bits("sampling", 0, 200).view(np.uint64),
            asked.coarse_bits("sampling", 0, 200).view(np.uint64),
        ),
        (keys.fine_bits("sampling", 0, units), asked.fine_bits("sampling", 0, units)),
        (keys.uniform("timestep", 0, units, 1), asked.uniform("timestep", 0, units, 1)),
        (keys.normal("diffusion-noise", 0, units, 4), asked.normal("diffusion-noise", 0, units, 4)),
        (keys.noise(0, "parameters", 50), asked.noise(0, "parameters", 50)),
    )
    return any(bool(np.any(mine == theirs)) for mine, theirs in pairs)


def test_guarantee_the_query_shares_no_draw_with_a_step() -> None:
    keys = RunKeys.for_tests(0)
    assert not shares_draws_with_step_zero(keys, QueryKeys(keys))
    mechanism = DPSGD(**SIZES)
    stand_in: Any = QueryKeys(keys)
    first = mechanism.sampler(10_000, keys).units(0)
    asked = mechanism.sampler(10_000, stand_in).units(0)
    overlap = len(np.intersect1d(first, asked))
    assert overlap < 200, "a tenth of a tenth of them: 100, give or take 10"


@pytest.mark.planted
def test_planted_a_query_that_draws_as_the_first_step_does() -> None:
    keys = RunKeys.for_tests(0)
    assert shares_draws_with_step_zero(keys, keys), "the planted defect must be visible"


@pytest.mark.parametrize("changed", [{"mechanism": "step"}, {"lane": bytes(16)}, {"plan_fingerprint": "x"}])
def test_guarantee_no_noise_without_the_receipt_of_this_query(changed: dict[str, Any]) -> None:
    keys, network = RunKeys.for_tests(0), Layers()
    with pytest.raises(GuaranteeError):
        released_energies(box_of(network, keys), ["one", "two"], QUERY, receipt(keys, **changed))


def test_guarantee_the_query_is_released_once_by_each_set_of_keys() -> None:
    keys, network = RunKeys.for_tests(0), Layers()
    released_energies(box_of(network, keys), ["one", "two"], QUERY, receipt(keys))
    assert keys.claimed(0, NAME)
    assert not keys.claimed(0), "a step of the training is another thing"
    with pytest.raises(GuaranteeError, match="already released"):
        released_energies(box_of(network, keys), ["one", "two"], QUERY, receipt(keys))


def test_energies_of_noise_alone_are_about_zero_whatever_the_size_of_a_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    released = [3.0 * torch.randn(size, generator=generator) for size in (40_000, 400)]
    found = energies(released, ["large", "small"], 3.0)
    assert abs(found["large"]) < 6 * 9.0 * (2 * 40_000) ** 0.5
    assert energies(released, ["large", "small"], 0.0)["large"] > 300_000, "without it large layers win"


def test_energies_of_one_layer_add_up() -> None:
    assert energies([torch.ones(4), torch.ones(2)], ["a", "a"], 0.5) == {"a": 6 - 6 * 0.25}


@pytest.mark.parametrize(
    "adjacency",
    ["add_remove", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero_out", "replace"))],
)
def test_alone_it_costs_a_tenth_of_the_budget(adjacency: str) -> None:
    query = saliency_query(Budget(5.0, 1e-5, adjacency=adjacency), DPSGD(**{**SIZES, "population": 1000}))
    assert 0.95 * 0.5 < epsilon([query], 1e-5, adjacency) <= 0.5
    assert (query.sampling_probability, query.clip_norm) == (0.01, 0.5)


def test_the_least_noise_is_kept_where_it_costs_less() -> None:
    sizes = {**SIZES, "population": 100_000}
    query = saliency_query(Budget(100.0, 1e-5), DPSGD(**sizes))
    assert query.noise_multiplier == 0.3


@pytest.mark.slow
def test_a_plan_pays_for_it_and_reads_it_back() -> None:
    mechanism, budget = DPSGD(**SIZES), Budget(2.0, 1e-3)
    plan = Plan.calibrate(budget, mechanism, [saliency_query(budget, mechanism)])
    assert 1.98 <= plan.epsilon <= 2.0
    assert plan.noise_multiplier > Plan.calibrate(budget, mechanism).noise_multiplier
    assert Plan.from_json(plan.to_json()) == plan
    assert "saliency, once" in plan.explain()
    with pytest.raises(Exception, match="side query 'saliency'"):
        training_record(plan.queries[0].to_dict())


def test_the_order_of_a_ledger_is_one_at_which_the_query_has_a_finite_loss() -> None:
    mechanism = DPSGD(**{**SIZES, "population": 30})
    budget = Budget(5.0, 1e-3, cap=Cap(5.0, 1e-3))
    query = saliency_query(budget, mechanism)
    terms = Terms.first(budget, mechanism.record(0.72), [query])
    assert terms.order is not None
    assert np.isfinite(renyi_of_one_step(query, [terms.order])[0])
