"""A ledger killed inside SQLite, at every call that changes a file, whole and in half; its journal cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crash_account import report

HERE = Path(__file__).parent


@pytest.mark.slow
def test_guarantee_a_ledger_killed_at_every_call(tmp_path: Path) -> None:
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    shim = tmp_path / "syscalls.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(HERE / "syscalls.c"), "-ldl"]
    subprocess.run(command, check=True)
    outcome = subprocess.run(
        [sys.executable, str(HERE / "ledger_life.py"), str(shim), str(tmp_path / "life")],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    said = json.loads(outcome.stdout)
    assert said["problems"] == []
    assert said["whole"] == said["calls"] >= 60
    assert 40 <= said["torn"] < said["calls"]
    assert said["cut"] >= 400
    report(
        f"ledger: {said['whole']} kills at {said['calls']} calls inside SQLite, {said['torn']} more in "
        f"half a write, {said['cut']} journals cut: 0 receipts without a charge"
    )
