"""`ledger show` and `certificate verify` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.calibrate(Budget(epsilon=2), DPSGD(steps=5, expected_units=10, population=100))


def test_ledger_show(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.ledger"
    with Ledger.open(path) as ledger:
        reservation = ledger.reserve(plan)
        reservation.open_lane(plan.fresh_keys())
        reservation.charge(0)
        head = ledger.head
    assert main(["ledger", "show", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= {"spent_epsilon", "cap_epsilon", "delta", "head", "entries"}
    assert (document["cap_epsilon"], document["cap_delta"]) == (2, 1e-5)
    assert 0 < document["spent_epsilon"] <= 2
    assert document["head"] == head
    assert [entry["kind"] for entry in document["entries"]][-1] == "charge"
    assert main(["ledger", "show", str(path)]) == 0
    assert " spent or reserved, cap 2, both at delta 1e-05" in capsys.readouterr().out


def test_ledger_show_of_an_empty_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.ledger"
    Ledger.open(path).close()
    assert main(["ledger", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spent_epsilon"] == 0


def test_a_folder_without_certificate_is_not_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certificate", "verify", str(tmp_path), "--json"]) == 4
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["valid"] is False
    assert document["problems"]
    assert captured.err.startswith("error: ")
