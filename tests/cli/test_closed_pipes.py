"""A reader that goes away, as `| head` does, is an interruption and no bug of ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dp_diffusers.cli import main as front
from dp_diffusers.errors import ExitCode


def ended(stream: str) -> tuple[int, bytes]:
    """Exit code of a command whose reader of `stream` is gone, and what the other stream says."""
    read, write = os.pipe()
    other = "stderr" if stream == "stdout" else "stdout"
    words = ["--help"] if stream == "stdout" else ["plan", "no-recipe.yaml"]
    command = [sys.executable, "-m", "dp_diffusers", *words]
    running = subprocess.Popen(command, **{stream: write, other: subprocess.PIPE})  # type: ignore[call-overload]
    os.close(write)
    os.close(read)
    said = b"".join(part for part in running.communicate() if part)
    return int(running.returncode), said


@pytest.mark.parametrize(
    ("stream", "code"), [("stdout", ExitCode.INTERRUPTED), ("stderr", ExitCode.BAD_INPUT)]
)
def test_nobody_is_told_and_no_bug_is_reported(stream: str, code: ExitCode) -> None:
    assert ended(stream) == (code, b"")


def test_a_pipe_of_something_else_is_a_bug_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr(front, "_crashed", lambda error: told.append(error) or ExitCode.BUG)
    assert front.report(BrokenPipeError("a worker is gone")) is ExitCode.BUG
    assert len(told) == 1
