"""The whole life of a ledger, killed at every call inside SQLite that changes a file; a process of its own.

`LD_PRELOAD=syscalls.so python ledger_life.py SHARED_OBJECT FOLDER` prints one JSON document: how many calls
a life has, how many processes died, how many of them in half a write, how many journals were cut to every
eighth of their length, and every problem found. A life writes `LANE STEP` down once it holds a receipt.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import dp_diffusers as dpd
from dp_diffusers.errors import LedgerError
from dp_diffusers.privacy.ledger import Ledger
from loop_support import cheap_trainings

STEPS = 3
PLAN = dpd.Plan.calibrate(
    dpd.Budget(epsilon=1.0, delta=1e-3), dpd.DPSGD(steps=STEPS, expected_units=10, population=30)
)


def live(folder: Path, steps: int = STEPS) -> None:
    """Reserves or resumes, opens a lane, pays for the steps, settles."""
    with Ledger.open(folder / "tiny.ledger") as ledger, (folder / "receipts").open("a") as receipts:
        known = ledger.has_run("run")
        account = ledger.resume("run") if known else ledger.reserve(PLAN, run_id="run")
        keys = PLAN.fresh_keys()
        account.open_lane(keys)
        for step in range(steps if account.steps_charged < account.limit - STEPS else 0):
            account.charge(step)
            receipts.write(f"{keys.lane.hex()} {step}\n")
            receipts.flush()
        account.settle()


def in_a_fork(work: Callable[[], None]) -> int:
    """The exit code of a child that does `work`; minus its signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def problems(folder: Path, *, may_refuse: bool) -> list[str]:
    """What is wrong with a ledger, given the receipts that a killed life held."""
    noted = folder / "receipts"
    held = [tuple(line.split()) for line in noted.read_text().splitlines()] if noted.exists() else []
    if not (folder / "tiny.ledger").exists():
        return ["the ledger is gone"] if held else []
    try:
        with Ledger.open(folder / "tiny.ledger") as ledger:
            paid = [
                (entry.content["lane"], str(entry.content["step"]))
                for entry in ledger.entries()
                if entry.kind == "charge"
            ]
            counted = ledger.resume("run").steps_charged if ledger.has_run("run") else 0
    except LedgerError as error:
        return [] if may_refuse else [f"refused: {error}"]
    checks = {
        "a receipt without a charge": set(held) <= set(paid),
        "charges that the run does not count": counted == len(paid),
        "more than one charge without a receipt": len(paid) <= len(held) + 1 or may_refuse,
    }
    return [what for what, holds in checks.items() if not holds]


def cut_journals(folder: Path) -> tuple[int, list[str]]:
    """The journal of a killed commit, cut at every eighth: nothing is forgotten, or the ledger is refused."""
    journal = folder / "tiny.ledger-journal"
    size = journal.stat().st_size if journal.exists() else 0
    found: list[str] = []
    for eighth in range(8 if size else 0):
        copy = folder.with_name("cut")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        os.truncate(copy / journal.name, size * eighth // 8)
        found += [f"journal cut to {eighth}/8: {what}" for what in problems(copy, may_refuse=True)]
    return (8 if size else 0), found


def killed_at(number: int, half: bool, shim: ctypes.CDLL, folder: Path, tally: Counter[str]) -> list[str]:
    """One life that dies at a call; the next one goes on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def life() -> None:
        shim.arm(number, int(half))
        live(folder)

    if in_a_fork(life) != -signal.SIGKILL:
        return ["it did not die"]
    tally["torn" if half else "whole"] += 1
    cuts, found = cut_journals(folder)
    tally["cut"] += cuts
    found += problems(folder, may_refuse=False)
    try:
        live(folder)
    except Exception as error:
        found.append(f"it does not go on: {error}")
    left = {path.name for path in folder.iterdir()} - {"tiny.ledger", "tiny.ledger-journal", "receipts"}
    found += [f"left behind: {name}" for name in sorted(left)]
    return found + problems(folder, may_refuse=False)


def main(shared_object: str, folder: Path) -> None:
    cheap_trainings(setattr)
    shim = ctypes.CDLL(shared_object)
    shim.disarm.restype = ctypes.c_long
    folder.mkdir()
    shim.arm(0, 0)
    live(folder)
    calls = shim.disarm()
    tally: Counter[str] = Counter(calls=calls)
    found = {
        f"call {number}{' in half' * half}: {what}"
        for number in range(1, calls + 1)
        for half in (False, True)[: 1 + shim.was_write(number)]
        for what in killed_at(number, half, shim, folder, tally)
    }
    print(json.dumps({**tally, "problems": sorted(found)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
