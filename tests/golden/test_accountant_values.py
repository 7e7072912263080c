"""Values of dp_accounting, written down by a process of its own: ours are within 1 % and never below.

One step is also held against the integral of the densities.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.privacy.accountant import RDP_SLACK, epsilon, epsilon_rdp
from dp_diffusers.privacy.events import GaussianMechanism, HistogramQuery, Record

sys.path.append(str(Path(__file__).parents[1] / "privacy"))
import hockey_stick as oracle

FILE = Path(__file__).with_name("accountant.json")
ROWS = json.loads(FILE.read_text())["rows"]
ROUNDING = 1e-6


def records(row: dict[str, Any]) -> list[Record]:
    sizes = {name: row[name] for name in ("steps", "population", "expected_units", "max_units")}
    mechanism = GaussianMechanism(
        **sizes,
        sampling_probability=row["expected_units"] / row["population"],
        clip_norm=1.0,
        noise_multiplier=row["noise_multiplier"],
    )
    return [*(HistogramQuery(classes=10, **query) for query in row["queries"]), mechanism]


def name(row: dict[str, Any]) -> str:
    kind = "truncated" if row["max_units"] else "poisson"
    return f"{row['adjacency']}-{kind}-{row['expected_units']}of{row['population']}x{row['steps']}"


@cache
def ours(index: int) -> float:
    """Epsilon of row `index` by our accountant."""
    row = ROWS[index]
    return epsilon(records(row), row["delta"], row["adjacency"])


def some_slow(indices: Sequence[int]) -> list[Any]:
    """Every third of `indices` always, the others among the slow tests."""
    slow = [() if at % 3 == 0 else (pytest.mark.slow,) for at in range(len(indices))]
    return [
        pytest.param(index, id=name(ROWS[index]), marks=marks)
        for index, marks in zip(indices, slow, strict=True)
    ]


def test_there_are_enough() -> None:
    assert len(ROWS) >= 40
    assert {row["adjacency"] for row in ROWS} == {"add_remove", "zero_out", "replace"}
    assert sum(row["max_units"] is not None for row in ROWS) >= 10
    assert sum(bool(row["queries"]) for row in ROWS) >= 6


@pytest.mark.parametrize("index", some_slow(range(len(ROWS))))
def test_guarantee_golden(index: int) -> None:
    row, found = ROWS[index], ours(index)
    by_rdp = epsilon_rdp(records(row), row["delta"], row["adjacency"])
    assert row["epsilon_pld"] * (1 - ROUNDING) <= found <= row["epsilon_pld"] * 1.01
    if row["epsilon_rdp"] is None:
        assert by_rdp is None
    else:
        assert by_rdp == pytest.approx(row["epsilon_rdp"], rel=1e-4)
        assert found <= RDP_SLACK * by_rdp


ONE_STEP = [index for index, row in enumerate(ROWS) if row["steps"] == 1 and not row["queries"]]


@pytest.mark.parametrize("index", some_slow(ONE_STEP))
def test_guarantee_one_step_is_the_integral(index: int) -> None:
    row = ROWS[index]
    probability, sigma = row["expected_units"] / row["population"], row["noise_multiplier"]
    worst = partial(oracle.worst_delta, row["adjacency"], probability, sigma)
    if row["max_units"] is not None:
        slots = {"slots": row["population"], "most": row["max_units"]}
        worst = partial(oracle.worst_truncated_delta, row["adjacency"], probability, sigma, **slots)
    exact = oracle.epsilon_at(worst, row["delta"])
    assert exact * (1 - ROUNDING) <= ours(index) <= exact * 1.01 + ROUNDING


@pytest.mark.slow
def test_the_file_is_what_the_generator_writes(tmp_path: Path) -> None:
    """Every seventh row again, in a process without our package."""
    out = tmp_path / "again.json"
    command = [sys.executable, "-I", str(FILE.with_name("generate.py")), str(out), "7"]
    subprocess.run(command, check=True)
    again = json.loads(out.read_text())["rows"]
    for new, old in zip(again, ROWS[::7], strict=True):
        assert new.keys() == old.keys()
        for key, value in old.items():
            assert new[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
