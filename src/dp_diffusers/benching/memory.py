"""Peak memory of a step, each engine in a process of its own.

Guarantees that no engine's figure holds what another one left behind, and that libraries are not counted: the
figure is the peak of one step above what the process held before the model was made, when it had done a step
of a tiny model with the same engine. It is the resident set under the allocator's own settings, as a user's
process has it. What the allocator keeps of freed blocks moves it by a tenth from step to step, though
processes with the same history agree: of the plain step and this engine it is the median of `PROCESSES`, each
a step further on. May import torch and `resource`; without `fork` there are no figures on a CPU. The
processes are forked from one that has loaded the libraries, and has used neither them nor a GPU.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from typing import Any, Final

from dp_diffusers.benching.case import OURS, PLAIN, Case

PROCESSES: Final = 3  # for the figures that a ratio of this engine is made of; one for every other engine


class MemoryMeter:
    """Starts the process that forks; close it, or use it in `with`."""

    def __init__(self, *, device: str, tiny: bool = False) -> None:
        self._task = {"device": device, "tiny": tiny}
        command = [sys.executable, "-m", "dp_diffusers.benching.memory"]
        self._process = (
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            if hasattr(os, "fork")
            else None
        )

    def peak(self, case: Case, engine: str) -> int | None:
        """Bytes, or None where the engine fails or the machine does not tell."""
        several = engine in (PLAIN, OURS) and self._task["device"] == "cpu"  # a GPU's count is exact
        peaks = [self._peak(case, engine, step) for step in range(1, PROCESSES + 1 if several else 2)]
        known = [peak for peak in peaks if peak is not None]
        return int(statistics.median(known)) if len(known) == len(peaks) else None

    def _peak(self, case: Case, engine: str, step: int) -> int | None:
        """Of a process of its own, in a step after `step` that settle."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            task = {**self._task, "engine": engine, "step": step, "case": asdict(case)}
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or "null")
        except (OSError, ValueError):
            return None
        return answer if isinstance(answer, int) else None

    def __enter__(self) -> MemoryMeter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.communicate()


def _serve() -> None:
    """Answers each line of the standard input by a line: the bytes that a forked process found, or null."""
    _load()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _answer(json.loads(line), writer)
        os.close(writer)
        with os.fdopen(reader) as stream:
            found = stream.read()
        os.waitpid(child, 0)
        answers.write((found or "null") + "\n")
        answers.flush()


def _load() -> None:
    """Everything that an engine imports, once, for all processes that are forked; nothing is computed."""
    from dp_diffusers.benching.engines import ENGINES
    from dp_diffusers.benching.payment import plan_for

    for target in ENGINES.values():
        with contextlib.suppress(ModuleNotFoundError):  # its rows have no times, and nobody asks
            import_module(target.partition(":")[0])
    plan_for(16, 1.0)  # loads the accountant


def _answer(task: dict[str, Any], writer: int) -> None:
    """What a forked process does: it never returns."""
    code = 1
    try:
        case = Case(**{**task["case"], "engines": tuple(task["case"]["engines"])})
        peak = _peak(case, task["engine"], task["device"], task["tiny"], task["step"])
        os.write(writer, json.dumps(peak).encode())
        code = 0
    finally:
        atexit._run_exitfuncs()  # a ledger of its own is deleted
        os._exit(code)


def _peak(case: Case, engine_name: str, device_name: str, tiny: bool, step: int) -> int:
    import torch

    from dp_diffusers.benching.engines import engine
    from dp_diffusers.benching.models import autoencoder
    from dp_diffusers.benching.work import work_of

    device = torch.device(device_name)
    _use_libraries(case, engine_name, device)
    autoencoder(tiny)  # its weights are kept by those alone who encode at every step: they do not count
    before = _resident()
    made = engine(engine_name, work_of(case, device=device, tiny=tiny))
    for number in range(step + 1):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_peak()
        made.step(number)
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return max(0, _peak_resident() - before)


def _use_libraries(case: Case, engine_name: str, device: Any) -> None:
    """One step of a tiny model: pages of a library count for a process only once it has used them."""
    from dp_diffusers.benching.engines import engine
    from dp_diffusers.benching.work import work_of
    from dp_diffusers.runtime.device_memory import give_back

    engine(engine_name, work_of(case, device=device, tiny=True)).step(0)
    gc.collect()
    give_back()  # what that step left in the allocator is no library's


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _peak_resident()


def _peak_resident() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _reset_peak() -> None:
    """Where the system allows it; else what came before the step counts too, a plan's calibration with it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


if __name__ == "__main__":
    _serve()
