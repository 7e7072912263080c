"""Commands as processes of their own, started in a moment: a server with the libraries loaded forks them.

A request is a line of JSON on stdin. `{"start": argv, "log": path, "output": path, "pause": seconds}` answers
`{"pid": ...}`; `{"wait": pid}` answers `{"code": ...}`, minus the signal for a killed one. A start may also
have `"die": [target, when, nth]`, `"seams": {...}` (arguments of `Seams`), `"defects": [names]`, and an
`"environment": {...}`, such as a launcher's for one of several processes. The logs of others than the first
have their rank behind `log`. `python trainer.py LOG ARGUMENTS...` runs one command in this process instead.

The log gets two synced lines for each step: `begin LANE STEP` before the noise is drawn, `done LANE STEP`
after. What was really released therefore lies between the two.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from defects import DEFECTS
from rank_defects import RANK_DEFECTS
from seams import Seams

from loop_support import cheap_trainings

sync = os.fsync  # the log's own, which is no seam of the product
PART = 3  # images that `generate` samples at once, so that there are several parts


def log_releases(path: str, pause: float) -> None:
    """Wraps the release of a step in the two lines; waits up to `pause` seconds at both ends of it."""
    from dp_diffusers.engine.private_gradient import PrivateGradient

    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    chance = random.Random(os.getpid())
    real = PrivateGradient.release

    def write(word: str, lane: bytes, step: int) -> None:
        os.write(log, f"{word} {lane.hex()} {step}\n".encode())
        sync(log)

    def release(self: Any, step: int, receipt: Any) -> Any:
        time.sleep(pause * chance.random())
        lane = self._keys.lane
        write("begin", lane, step)
        released = real(self, step, receipt)
        write("done", lane, step)
        time.sleep(pause * chance.random())
        return released

    PrivateGradient.release = release  # type: ignore[method-assign]
    log_queries(path + ".queries")


def log_queries(path: str) -> None:
    """Writes the lane of each class histogram down before its noise is drawn."""
    from dp_diffusers.queries import class_histogram

    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    real = class_histogram.noisy_counts

    def noisy_counts(query: Any, counts: Any, keys: Any, *others: Any) -> Any:
        os.write(log, f"{keys.lane.hex()}\n".encode())
        sync(log)
        return real(query, counts, keys, *others)

    class_histogram.noisy_counts = noisy_counts


def wrap(target: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces `module:name` or `module:Class.name` by `make` of it."""
    module, path = target.split(":")
    *owners, name = path.split(".")
    holder: Any = import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    setattr(holder, name, make(getattr(holder, name)))


def die_at(target: str, when: str, nth: int) -> None:
    """Kills this process `before` or `after` the nth call of `target`, or `in` it: half a file is written."""
    calls = 0

    def make(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth and when == "in":
                args[1].write(b"PK half a checkpoint")
                args[1].flush()
            if calls == nth and when != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    wrap(target, make)


@functools.lru_cache
def plan_ahead(overrides: tuple[str, ...], recipe: str) -> None:
    """Makes the plan of a recipe and its costs, so that forks find them made."""
    from dp_diffusers.privacy import accountant
    from dp_diffusers.privacy.ledger import Ledger
    from dp_diffusers.recipe import Recipe

    plan = Recipe.load(recipe, overrides).plan()
    if plan.not_private:
        return
    with Ledger.open(":memory:") as ledger:
        account = ledger.reserve(plan)
        account.open_lane(plan.fresh_keys())
        account.charge(0)
        account.epsilon()
    accountant.epsilon([plan.mechanism.record(plan.noise_multiplier)], plan.delta, "add_remove", grid=1e-4)


def small_parts() -> None:
    """Sampling in parts of a few images."""
    from dp_diffusers.drawing import image_job

    image_job.images_of_a_part = lambda *_: PART


def below_a_parent(note: Path) -> int:
    """Goes on in a child, whose number is written to `note`; the parent reads what it says, until killed.

    Returns: the child's end of the pipe between them.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        return writing
    os.close(writing)
    note.write_text(str(pid))
    while os.read(reading, 4096):
        pass
    os.waitpid(pid, 0)
    os._exit(0)


def child(request: dict[str, Any]) -> int:
    """One command; the exit code."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if request.get("orphan"):
        output = below_a_parent(Path(request["output"]).with_name("orphan"))
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(request.get("environment") or {})
    from dp_diffusers.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for inherited in (signal.SIGHUP, signal.SIGQUIT):  # nohup, and a shell's `&`, leave them ignored
        signal.signal(inherited, signal.SIG_DFL)
    rank = os.environ.get("RANK", "0")
    log_releases(request["log"] + (f".{rank}" if rank != "0" else ""), request["pause"])
    small_parts()
    for name in request.get("defects") or ():
        (DEFECTS | RANK_DEFECTS)[name]()
    if request.get("die"):
        die_at(*request["die"])
    if request.get("seams"):
        Seams(**request["seams"]).install()
    return main(request["start"])


def start(request: dict[str, Any]) -> dict[str, int]:
    words = request["start"]
    if words[0] == "train":
        plan_ahead(tuple(value for word, value in itertools.pairwise(words) if word == "--set"), words[1])
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = child(request)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return {"pid": pid}


def serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import dp_diffusers.cli.making
    import dp_diffusers.finetuning  # noqa: F401

    cheap_trainings(setattr)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = start(request)
        else:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from dp_diffusers.cli.main import main

        log_releases(sys.argv[1], 0.01)
        sys.exit(main(sys.argv[2:]))
    serve()
