from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_account import REPORTS

from loop_support import cheap_trainings, small_budget

TRAINER = Path(__file__).parent / "trainer.py"


class Trainings:
    """Starts trainings as processes of their own, waits for them, kills them."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, str(TRAINER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == {"ready": True}

    def start(self, recipe: Path, *overrides: str, out: str = "run", **options: Any) -> int:
        """Starts `train RECIPE --out OUT`; the process id."""
        argv = ["train", str(recipe), "--out", str(recipe.parent / out)]
        for override in overrides:
            argv += ["--set", override]
        return self.command(recipe.parent, argv, **options)

    def command(self, folder: Path, argv: list[str], *, pause: float = 0.0, **options: Any) -> int:
        """Starts a command with its log and output in `folder`; the process id."""
        request = {"start": argv, "log": str(folder / "log"), "output": str(folder / "output")}
        return int(self._ask({**request, "pause": pause, **options})["pid"])

    def wait(self, pid: int) -> int:
        """The exit code; minus the signal for a killed process."""
        return int(self._ask({"wait": pid})["code"])

    def run(self, recipe: Path, *overrides: str, **options: Any) -> int:
        """Starts a training and waits for its end."""
        return self.wait(self.start(recipe, *overrides, **options))

    def kill(self, pid: int, sign: int = signal.SIGKILL) -> int:
        """Sends a signal and waits; the exit code."""
        os.kill(pid, sign)
        return self.wait(pid)

    def close(self) -> None:
        """Ends the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        return dict(json.loads(self._server.stdout.readline()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was killed, charged and released, a line for each series."""
    for line in REPORTS:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def trainings() -> Iterator[Trainings]:
    """A server of trainings, started once."""
    server = Trainings()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _cheap_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in the process of the tests: plans are made once, certificates are verified by the tests."""
    cheap_trainings(monkeypatch.setattr)


@pytest.fixture
def tiny_recipe(tiny_recipe: Path) -> Path:
    """The tiny recipe with twelve steps: enough to be hit, and one plan for all of these tests."""
    small_budget(tiny_recipe, steps=12)
    return tiny_recipe
