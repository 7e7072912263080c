"""Small plans that several tests share; calibrated once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger

SIZES = {"steps": 30, "expected_units": 500, "population": 1000}


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Epsilon 1, its own cap."""
    return Plan.calibrate(Budget(1.0, 1e-4), DPSGD(**SIZES))


@pytest.fixture(scope="session")
def roomy() -> Callable[..., Plan]:
    """Plans of epsilon 1 in a cap of any epsilon."""

    @cache
    def make(cap: float | None = 3.0, **budget: object) -> Plan:
        limit = None if cap is None else {"epsilon": cap, "delta": 1e-4}
        return Plan.calibrate(Budget(1.0, 1e-4, cap=limit, **budget), DPSGD(**SIZES))  # type: ignore[arg-type]

    return make


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """In memory: the same code without waiting for a disk."""
    with Ledger.open(":memory:") as opened:
        yield opened


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "data.ledger") as opened:
        yield opened


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What the ledger sees of a process's keys."""

    lane: bytes
    not_private: bool = False


@pytest.fixture
def new_keys() -> Callable[..., Keys]:
    return lambda **fields: Keys(lane=os.urandom(16), **fields)
