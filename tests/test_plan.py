"""The plan: certified, frozen, the same on every machine, and quick."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import dp_accounting
import pytest

from dp_diffusers.errors import GuaranteeError, ParameterError
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.none import NonPrivate
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.accountant import epsilon
from dp_diffusers.privacy.budget import Budget


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
    with pytest.raises(ParameterError, match="needs a budget"):
        Plan.calibrate(None, DPSGD(steps=50, expected_units=1000, population=2000))


def test_explanation_speaks_to_both(plan):
    text = plan.explain()
    for part in ("For the engineer", "For the data protection officer", "noise multiplier", "RDP", "odds"):
        assert part in text
    assert f"{plan.noise_multiplier:.4f}" in text
    assert f"{math.exp(plan.epsilon):.3g}" in text


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
