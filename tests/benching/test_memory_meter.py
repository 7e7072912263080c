"""The figure of memory: of how many processes, and which one of theirs."""

from __future__ import annotations

import pytest

from dp_diffusers.benching.case import OURS, PLAIN, Case
from dp_diffusers.benching.memory import MemoryMeter

CASE = Case(family="pixel")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which engine, and after how many steps; the peaks are 50, 20, 30, and none of an engine that fails."""
    asked: list[tuple[str, int]] = []

    def peak(self: MemoryMeter, case: Case, engine: str, step: int) -> int | None:
        asked.append((engine, step))
        return None if engine == OURS and step == 2 else {1: 50, 2: 20, 3: 30}[step]

    monkeypatch.setattr(MemoryMeter, "_peak", peak)
    monkeypatch.setattr("subprocess.Popen", lambda *given, **named: None)
    return asked


def test_of_the_plain_step_it_is_the_median_of_three_processes(asked: list[tuple[str, int]]) -> None:
    assert MemoryMeter(device="cpu").peak(CASE, PLAIN) == 30
    assert asked == [(PLAIN, 1), (PLAIN, 2), (PLAIN, 3)]


def test_one_that_fails_leaves_no_figure(asked: list[tuple[str, int]]) -> None:
    assert MemoryMeter(device="cpu").peak(CASE, OURS) is None


@pytest.mark.parametrize(("device", "engine"), [("cuda", OURS), ("cpu", "vmap")])
def test_elsewhere_one_process_answers(device: str, engine: str, asked: list[tuple[str, int]]) -> None:
    assert MemoryMeter(device=device).peak(CASE, engine) == 50
    assert asked == [(engine, 1)]
