"""A budget that exists is in range; every refusal is one line with a value in it."""

from __future__ import annotations

import json
import math

import pytest

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.budget import Budget, Cap


def test_defaults():
    budget = Budget(2)
    assert (budget.epsilon, budget.delta, budget.unit, budget.adjacency) == (2.0, 1e-5, "image", "add_remove")
    assert budget.cap == Cap(2.0, 1e-5), "without a cap of its own, the cap is the budget"
    assert Budget(2, cap=None).cap is None
    assert Budget(2, cap={"epsilon": 4, "delta": 1e-5}).cap == Cap(4, 1e-5)


@pytest.mark.parametrize("cap", [None, Cap(5, 1e-6)])
@pytest.mark.parametrize("adjacency", ["zero_out", "replace"])
def test_round_trip(cap, adjacency):
    budget = Budget(0.5, 1e-6, "patient_id", adjacency, cap)
    assert Budget.from_dict(budget.to_dict()) == budget


@pytest.mark.parametrize("given", [{}, {"cap": Cap(2, 1e-6)}, {"cap": {"epsilon": 2, "delta": 1e-6}}])
def test_whether_a_cap_was_given_is_written_down(given):
    budget = Budget(2, 1e-6, **given)
    assert Budget.from_dict(json.loads(json.dumps(budget.to_dict()))).asks_for_no_cap is (not given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "expected epsilon in"),
        ({"epsilon": -1}, "got -1"),
        ({"epsilon": math.nan}, "got nan"),
        ({"epsilon": math.inf}, "got inf"),
        ({"epsilon": 101}, "got 101"),
        ({"epsilon": "1"}, "to be a number, got '1'"),
        ({"epsilon": True}, "to be a number, got True"),
        ({"epsilon": 1, "delta": 0}, "expected delta in"),
        ({"epsilon": 1, "delta": 1e-16}, "got 1e-16"),
        ({"epsilon": 1, "delta": 1.0}, "got 1.0"),
        ({"epsilon": 1, "delta": math.nan}, "got nan"),
        ({"epsilon": 1, "unit": " "}, "whose privacy"),
        ({"epsilon": 1, "unit": "patient\nid"}, r"without line breaks .* got 'patient\\nid'"),
        ({"epsilon": 1, "unit": "patient\u202eid"}, "characters that nobody sees"),
        ({"epsilon": 1, "adjacency": "addremove"}, "unknown adjacency"),
        ({"epsilon": 1, "cap": {"epsilon": 1}}, "expected cap"),
        ({"epsilon": 1, "cap": 4}, "expected cap"),
        ({"epsilon": 1, "cap": {"epsilon": 0, "delta": 1e-5}}, "cap.epsilon"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ParameterError, match=message) as caught:
        Budget(**arguments)
    assert caught.value.exit_code == 2


def test_is_frozen_and_not_read_from_anything_else():
    with pytest.raises(AttributeError):
        Budget(1).epsilon = 2
    with pytest.raises(ParameterError, match="not a budget"):
        Budget.from_dict({"epsilon": 1})


@pytest.mark.parametrize("unit", ["patient id", "patient\u00a0id", "患者\u3000番号", "کد\u200cبیمار"])
def test_a_unit_may_be_called_as_people_write(unit):
    assert Budget(1.0, 1e-5, unit=unit).unit == unit
