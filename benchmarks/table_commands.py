"""Commands that are run once: what each was asked, what it answered, how long it took, and by which code.

Guarantees
- a command that has answered is not run again, and one that was asked otherwise is refused;
- a command runs with the sources of this checkout, whatever is installed;
- Ctrl-C and SIGTERM leave it the time to stop by itself; the seconds of such a start are counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from dp_diffusers.benching.machine import code_digest, device_name, versions

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED, TERMINATED, OTHER = 130, 143, 2


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: a verb of the package, or a script of this folder, and its arguments.

    made_of: what else decides the answer, such as the text of a recipe and the digests of earlier answers.
    """

    verb: str
    arguments: Sequence[str]
    made_of: Mapping[str, str]

    def argv(self) -> list[str]:
        """As it is called."""
        if self.verb.endswith(".py"):
            return [sys.executable, str(ROOT / "benchmarks" / self.verb), *self.arguments]
        return [sys.executable, "-m", "dp_diffusers", self.verb, *self.arguments, "--json"]


class Commands:
    """Runs commands; `strip` are folders of this machine that are left out of what is written down."""

    def __init__(self, strip: Sequence[Path]) -> None:
        self.strip = [f"{folder}/" for folder in strip]
        self.commit = commit()
        self.code = code_digest()

    def run(self, done: Path, command: Command) -> dict[str, Any]:
        """The answer kept at `done`, or that of the command, which is run and kept.

        Raises `SystemExit` with 2 where another command was kept, else with the exit code of one that failed.
        """
        asked = {
            "command": self.plain(" ".join([command.verb, *command.arguments])),
            "made_of": {name: self.plain(text) for name, text in command.made_of.items()},
        }
        if done.exists():
            found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
            if found["asked"] != asked:
                print(f"error: {done} was made otherwise; delete it and what it made, or give another --out")
                raise SystemExit(OTHER)
            return found
        done.parent.mkdir(parents=True, exist_ok=True)
        print(command.verb, *command.arguments, flush=True)
        answer, seconds = self._answer(command.argv(), done.with_suffix(".seconds"))
        by = {"commit": self.commit, "code": self.code, "versions": versions()}
        by["machine"] = device_name(torch.device("cpu"))
        found = {"asked": asked, "seconds": seconds, "by": by, "answer": answer}
        write(done, found)
        done.with_suffix(".seconds").unlink()
        return found

    def plain(self, text: str) -> str:
        """Without folders of this machine."""
        for folder in self.strip:
            text = text.replace(folder, "")
        return text

    def _answer(self, argv: Sequence[str], times: Path) -> tuple[Any, float]:
        """The JSON that it printed, and the seconds of all its starts but those that were killed."""
        began = time.monotonic()
        try:
            code, text = _waited_for(argv)
        finally:
            with times.open("a", encoding="utf-8") as file:
                print(round(time.monotonic() - began, 1), file=file)
        if code != 0:  # it has said why
            raise SystemExit(code)
        return json.loads(text), sum(map(float, times.read_text(encoding="utf-8").split()))


def digest(answer: Mapping[str, Any]) -> str:
    """Stands for what a command was asked and answered."""
    kept = {name: answer[name] for name in ("asked", "answer")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def commit() -> str:
    """The commit of this checkout, with a mark where files differ from it."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7"]
    found = subprocess.run(asked, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def write(path: Path, document: Mapping[str, Any]) -> None:
    """As JSON, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _waited_for(argv: Sequence[str]) -> tuple[int, str]:
    """Exit code and output. A signal to stop goes on to the command, which ends in its own time."""
    sources = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": sources}
        ) as child:
            try:
                text, _ = child.communicate()
            except KeyboardInterrupt:  # the terminal has told it, too
                child.wait()
                raise SystemExit(INTERRUPTED) from None
            except SystemExit:
                child.terminate()
                child.wait()
                raise
        return child.returncode, text
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
