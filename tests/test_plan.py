"""The plan: certified, frozen, the same on every machine, and quick."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import dp_accounting
import pytest

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget, Cap
from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.privacy.events import HistogramQuery
from dp_diffusers.rounding import rounded_up, rounded_up_text


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.calibrate(Budget(2.0, 1e-5), DPSGD(steps=50, expected_units=1000, population=2000))


def test_numbers(plan):
    assert 1.98 <= plan.epsilon <= 2.0 < plan.epsilon_rdp
    assert plan.sampling_probability == 1000 / 2000
    assert (plan.steps, plan.expected_units, plan.delta, plan.not_private) == (50, 1000, 1e-5, False)
    gaussian = dp_accounting.GaussianDpEvent(plan.noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(1000 / 2000, gaussian)
    assert plan.event() == dp_accounting.SelfComposedDpEvent(sampled, 50)
    assert plan.event(7) == dp_accounting.SelfComposedDpEvent(sampled, 7)


def test_guarantee_made_by_calibrate_or_from_json_only(plan):
    with pytest.raises(GuaranteeError, match="calibrate"):
        Plan(plan.budget, plan.mechanism, 0.1, 1.0, 1.0)
    with pytest.raises(AttributeError, match="frozen"):
        plan.noise_multiplier = 0.1
    with pytest.raises(AttributeError, match="frozen"):
        del plan.epsilon


def test_round_trip_derives_everything_again(plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_json() == plan.to_json()
    fields = {"epsilon", "delta", "noise_multiplier", "sampling_probability", "steps", "expected_units"}
    assert fields | {"epsilon_rdp"} <= set(json.loads(plan.to_json()))


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (None, "epsilon", 1.0),
        (None, "fingerprint", "0"),
        (None, "schema", 2),
        (None, "delta", 1e-6),
        (None, "noise_multiplier", 7.0),
        (None, "sampling_probability", 0.01),
        (None, "steps", 60),
        (None, "expected_units", 7),
        (None, "not_private", True),
        ("mechanism", "noise_multiplier", 7.0),
        ("mechanism", "steps", 60),
        ("mechanism", "sampling_probability", 0.01),
        ("mechanism", "name", "laplace"),
        ("budget", "epsilon", 1.0),
        ("budget", "delta", 1e-3),
    ],
)
def test_altered_documents_are_refused(plan, section, field, value):
    document = json.loads(plan.to_json())
    (document if section is None else document[section])[field] = value
    with pytest.raises(ParameterError):
        Plan.from_json(document)


def test_guarantee_a_plan_pays_for_its_queries(plan):
    query = HistogramQuery(classes=10, noise_multiplier=20.0)
    both = Plan.calibrate(plan.budget, plan.mechanism, [query])
    assert both.records == (query, both.record)
    assert both.events() == (query.event(), both.event())
    assert both.epsilon == epsilon(both.records, 1e-5) <= 2.0
    assert both.noise_multiplier > plan.noise_multiplier
    assert both.epsilon_after(0) == pytest.approx(epsilon([query], 1e-5), rel=0.01)
    assert both.epsilon_after(50) == both.epsilon
    assert (both.fingerprint != plan.fingerprint, plan.records) == (True, (plan.record,))


def test_queries_are_read_back_and_count(plan):
    query = HistogramQuery(classes=10, noise_multiplier=20.0)
    both = Plan.calibrate(plan.budget, plan.mechanism, [query])
    assert Plan.from_json(both.to_json()) == both
    assert json.loads(plan.to_json())["queries"] == []
    for queries in ([], [{**query.to_dict(), "noise_multiplier": 30.0}], [query.to_dict()] * 2):
        with pytest.raises(ParameterError):
            Plan.from_json({**both.to_dict(), "queries": queries})
    with pytest.raises(ParameterError, match="no private queries"):
        Plan.calibrate(None, NonPrivate(steps=1, expected_units=1, population=2), [query])


def test_a_plan_without_queries_keeps_its_fingerprint():
    """The fingerprint of version 0.1: run folders and ledgers hold it."""
    budget, record = Budget(2.0, 1e-5), DPSGD(steps=50, expected_units=1000, population=2000).record(1.25)
    numbers = {"budget": budget.to_dict(), "mechanism": record.to_dict()}
    made = Plan._rebuild({**numbers, "budget": {**budget.to_dict(), "epsilon": 100.0, "cap": None}})
    numbers["budget"] = made.budget.to_dict()
    assert made.fingerprint == fingerprint(numbers)


def test_replace_needs_more_noise(plan):
    stronger = Plan.calibrate(Budget(2.0, 1e-5, adjacency="replace"), plan.mechanism)
    assert 1.7 * plan.noise_multiplier < stronger.noise_multiplier < 2.1 * plan.noise_multiplier
    assert stronger.epsilon_rdp is None
    assert Plan.from_json(stronger.to_json()) == stronger
    assert "any other content stands in the place of one" in stronger.explain()


@pytest.fixture(scope="module")
def limited() -> Plan:
    sizes = DPSGD(steps=4, expected_units=50, population=100, max_units=55)
    return Plan.calibrate(Budget(2.0, 1e-5), sizes)


def test_guarantee_a_limit_is_paid_for_and_its_price_is_said(limited):
    """The limit lies one standard deviation above the mean, so that the same noise costs more with it."""
    unlimited = Plan.calibrate(limited.budget, DPSGD(steps=4, expected_units=50, population=100))
    assert 1.98 <= limited.epsilon <= 2.0
    assert limited.noise_multiplier > unlimited.noise_multiplier
    assert limited.epsilon_without_limit < limited.epsilon
    words = limited.explain()
    assert "1.0 standard deviations above the mean" in words
    assert f"without it would give {limited.epsilon_without_limit:.4f}" in words
    assert "RDP has no theorem" in words
    assert Plan.from_json(limited.to_json()) == limited


def test_a_rare_limit_is_free_and_not_priced():
    plan = Plan.calibrate(Budget(2.0, 1e-5), DPSGD(steps=4, expected_units=50, population=100, max_units=76))
    unlimited = Plan.calibrate(plan.budget, DPSGD(steps=4, expected_units=50, population=100))
    assert plan.noise_multiplier == pytest.approx(unlimited.noise_multiplier, rel=1e-3)
    assert plan.epsilon_without_limit is None
    assert "met often" not in plan.explain()


def test_guarantee_surplus_units_are_refused_where_a_slot_can_change_hands(limited):
    """A unit that left, or came later in the data, would make room for a surplus one: two would change."""
    keys = limited.fresh_keys()
    assert limited.sampler(100, keys).units(0).size <= 55
    with pytest.raises(ParameterError, match=r"more units than mechanism\.population = 100") as caught:
        limited.sampler(101, keys)
    assert "101" not in str(caught.value)
    blanked = Plan.from_json({**limited.to_dict(), **_under(limited, "zero_out")})
    with pytest.raises(ParameterError, match="more units than"):  # without images a unit has no slot here
        blanked.sampler(101, keys)


def _under(plan: Plan, adjacency: str) -> dict[str, object]:
    """The plan's document under another adjacency of the same loss."""
    budget = {**plan.budget.to_dict(), "adjacency": adjacency}
    rebuilt = Plan._rebuild({**plan.to_dict(), "budget": budget})
    return {"budget": budget, "epsilon": rebuilt.epsilon, "fingerprint": rebuilt.fingerprint}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "budget": 3}'])
def test_other_documents_are_refused(text):
    with pytest.raises(ParameterError, match="not a"):
        Plan.from_json(text)


def test_fingerprint_follows_the_public_numbers(plan):
    assert plan.fingerprint == Plan.calibrate(plan.budget, plan.mechanism).fingerprint
    other = Plan.calibrate(plan.budget, DPSGD(steps=50, expected_units=1000, population=2000, clip_norm=2.0))
    assert other.fingerprint != plan.fingerprint
    assert other.noise_multiplier == plan.noise_multiplier


def test_epsilon_after(plan):
    values = [plan.epsilon_after(step) for step in range(51)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[-1] == plan.epsilon <= plan.budget.epsilon
    for steps in (1, 10, 25):
        assert (
            values[steps] >= epsilon([plan.mechanism.record(plan.noise_multiplier, steps)], 1e-5) * 0.999999
        )
    with pytest.raises(ParameterError):
        plan.epsilon_after(51)


def test_delta_not_below_one_over_population_is_refused_with_the_reason():
    for delta in (1 / 2000, 1e-3):
        with pytest.raises(ParameterError, match=r"delta < 1 / population = 0\.0005") as caught:
            Plan.calibrate(Budget(1.0, delta), DPSGD(steps=50, expected_units=1000, population=2000))
        assert "publishing" in caught.value.hint
    for delta in (1 / 2000, 0.5):
        with pytest.raises(ParameterError, match=r"cap\.delta < 1 / population = 0\.0005") as caught:
            Plan.calibrate(
                Budget(1.0, 1e-5, cap=Cap(7.0, delta)),
                DPSGD(steps=50, expected_units=1000, population=2000),
            )
        assert "publishing" in caught.value.hint
    with pytest.raises(ParameterError, match="needs a budget"):
        Plan.calibrate(None, DPSGD(steps=50, expected_units=1000, population=2000))


def test_explanation_speaks_to_both(plan):
    text = plan.explain()
    for part in ("For the engineer", "For the data protection officer", "noise multiplier", "RDP", "odds"):
        assert part in text
    assert f"{math.floor(1e4 * plan.noise_multiplier) / 1e4:.4f}" in text
    assert rounded_up_text(math.exp(rounded_up(plan.epsilon)), 3) in text


def test_without_privacy():
    plan = Plan.calibrate(Budget(1.0), NonPrivate(steps=5, expected_units=3, population=9))
    assert plan.not_private
    assert (plan.epsilon, plan.delta, plan.record, plan.noise_multiplier) == (math.inf, None, None, 0.0)
    assert (plan.epsilon_after(0), plan.epsilon_after(5)) == (0.0, math.inf)
    assert plan.explain().startswith("NOT PRIVATE")
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(GuaranteeError):
        plan.event()


def test_planning_loads_no_torch_and_is_quick():
    code = """
import sys, time
began = time.process_time()
from dp_diffusers.plan import Plan
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.privacy.events import HistogramQuery
Plan.calibrate(Budget(10, 1e-5), DPSGD(steps=200, expected_units=4096, population=60000))
assert not {"torch", "diffusers"} & set(sys.modules)
print(time.process_time() - began)
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert float(outcome.stdout) < 3.0, "CPU seconds; wall time is measured on an idle machine"


def test_prefixes_are_cheap(plan):
    again = Plan.from_json(plan.to_json())
    began = time.process_time()
    again.epsilon_after(3)
    assert time.process_time() - began < 1.5


def test_guarantee_surplus_units_are_refused_under_replace_too():
    sizes = DPSGD(steps=4, expected_units=50, population=100, max_units=76)
    plan = Plan.calibrate(Budget(2.0, 1e-5, adjacency="replace"), sizes)
    plan.sampler(100, RunKeys.for_tests(0))
    with pytest.raises(ParameterError, match="more units than"):
        plan.sampler(101, RunKeys.for_tests(0))
