"""Keys go nowhere: not into copies, other processes, threads' second claims, logs or tracebacks."""

from __future__ import annotations

import ast
import base64
import copy
import ctypes
import io
import logging
import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_diffusers.engine import randomness
from dp_diffusers.engine.noise import noisy
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.engine.secret_bytes import SecretBytes
from dp_diffusers.errors import GuaranteeError


def disguises(secret: bytes) -> list[str]:
    """How the bytes could look in a text."""
    numbers = ", ".join(map(str, secret))
    return [secret.hex(), base64.b64encode(secret).decode().rstrip("="), repr(bytes(secret))[2:-1], numbers]


def shows(text: str, keys: RunKeys) -> bool:
    """Whether a text holds the key, or the key of the stream that `noise` reads first."""
    assert keys._key is not None
    secrets = [keys._key, keys._subkey("noise", "0/parameters", 0)]
    return any(form in text or form.upper() in text for secret in secrets for form in disguises(secret))


def traceback_with_locals(call: Callable[[], Any]) -> str:
    """What a crash reporter writes that shows local variables."""
    try:
        call()
    except Exception as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    raise AssertionError("nothing was raised")


def crash_in_a_draw(keys: RunKeys, monkeypatch: pytest.MonkeyPatch) -> str:
    def fail(*given: Any, **named: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(randomness, "Cipher", fail)
    return traceback_with_locals(lambda: noisy(torch.zeros(4, dtype=torch.float64), keys, 0, 1.0))


def test_guarantee_a_traceback_with_local_variables_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RunKeys.fresh()
    shown = crash_in_a_draw(keys, monkeypatch)
    assert "subkey = <secret>" in shown
    assert not shows(shown, keys)


@pytest.mark.planted
def test_planted_keys_that_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "SecretBytes", bytes)
    keys = RunKeys.fresh()
    assert shows(crash_in_a_draw(keys, monkeypatch), keys)


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, "%s".__mod__, "%r".__mod__])
def test_no_way_of_printing_shows_a_secret(show: Callable[[Any], str]) -> None:
    secret = SecretBytes(os.urandom(32))
    for shown in (show(secret), show([secret]), show({"key": secret}), show(RunKeys.fresh())):
        assert not any(form in shown for form in disguises(secret))
    assert show(secret) == "<secret>"


def test_a_log_shows_no_key() -> None:
    keys, stream = RunKeys.fresh(), io.StringIO()
    logger = logging.Logger("keys", logging.DEBUG)
    logger.addHandler(logging.StreamHandler(stream))
    logger.info("%s %r %s", keys, keys, {name: getattr(keys, name) for name in RunKeys.__slots__[1:]})
    assert keys.lane.hex() in stream.getvalue()
    assert not shows(stream.getvalue(), keys)


@pytest.mark.parametrize("move", [pickle.dumps, copy.copy, copy.deepcopy, torch.save])
@pytest.mark.parametrize(
    "hidden_in", [lambda keys: keys, lambda keys: {"state": [keys]}, lambda keys: keys._key]
)
def test_guarantee_keys_are_neither_pickled_nor_copied(move: Any, hidden_in: Any) -> None:
    held = hidden_in(RunKeys.fresh())
    if move is copy.copy and isinstance(held, dict):
        held = held["state"][0]  # a shallow copy of a container holds the same object, not another
    with pytest.raises(GuaranteeError, match="cannot be pickled or copied"):
        move(held, io.BytesIO()) if move is torch.save else move(held)


def test_guarantee_a_spawned_process_gets_no_key() -> None:
    process = multiprocessing.get_context("spawn").Process(target=print, args=(RunKeys.fresh(),))
    with pytest.raises(GuaranteeError, match="cannot be pickled or copied"):
        process.start()


def answer_of_a_child(fork: Callable[[], int], keys: RunKeys) -> bytes:
    """What a forked child says when it draws: `refused`, or the first byte of its noise."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        answer = b"refused"
        try:
            answer = keys.noise(0, "x", 1).tobytes()
        except GuaranteeError:
            pass
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        return stream.read()


FORKS: dict[str, Callable[[], int]] = {
    "Python's": os.fork,
    "a library's": lambda: int(ctypes.PyDLL(None).fork()),  # Python's handlers do not see it
}


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_guarantee_no_kind_of_forked_child_draws(fork: Callable[[], int]) -> None:
    keys = RunKeys.fresh()
    assert answer_of_a_child(fork, keys) == b"refused"
    assert keys.noise(0, "x", 1).shape == (1,)


def test_keys_made_after_a_fork_are_new() -> None:
    reading, writing = os.pipe()
    mine = RunKeys.fresh()
    child = os.fork()
    if child == 0:
        other = RunKeys.fresh()
        os.write(writing, other.lane + other.noise(0, "x", 1).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 64)
    assert told[:16] != mine.lane
    assert told[16:] != mine.noise(0, "x", 1).tobytes()


@pytest.mark.planted
def test_planted_keys_that_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RunKeys.fresh()
    monkeypatch.setattr(randomness, "_LIVE", [])
    monkeypatch.setattr(randomness.os, "getpid", lambda: keys._process)
    assert answer_of_a_child(os.fork, keys) == keys.noise(0, "x", 1).tobytes()


def claims_won(keys: RunKeys, threads: int = 8, steps: int = 200) -> int:
    """How many claims succeed when each thread claims each step at the same moment."""
    start, won = threading.Barrier(threads), []

    def work() -> None:
        start.wait()
        for step in range(steps):
            try:
                keys.claim(step)
            except GuaranteeError:
                continue
            won.append(step)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(won)


def test_guarantee_one_of_many_threads_claims_a_step() -> None:
    assert claims_won(RunKeys.fresh()) == 200


@pytest.mark.planted
def test_planted_claim_that_looks_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_two(self: RunKeys, step: int) -> None:
        known = step in self._claimed
        threading.Event().wait(0.0002)  # another thread's turn
        if known:
            raise GuaranteeError("released before")
        self._claimed[step] = self

    monkeypatch.setattr(RunKeys, "claim", in_two)
    assert claims_won(RunKeys.fresh(), steps=20) > 20


def test_draws_of_threads_are_those_of_one() -> None:
    keys, units = RunKeys.for_tests(3), np.arange(40)

    def draw(step: int) -> bytes:
        parts = keys.normal("a", step, units, 9), keys.uniform("b", step, units, 3), keys.noise(step, "c", 50)
        return b"".join(part.tobytes() for part in parts)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(40)))
    assert together == [draw(step) for step in range(40)]


def test_lanes_and_keys_never_repeat() -> None:
    made = [RunKeys.fresh() for _ in range(2000)]
    assert len({keys.lane for keys in made}) == len({keys._key for keys in made}) == 2000
    assert not {keys.lane for keys in made} & {bytes(keys._key or b"")[:16] for keys in made}


def test_secrets_are_taken_from_the_operating_system_alone() -> None:
    """The one call that makes keys reads `os.urandom`, and nothing in the module a seeded stream."""
    tree = ast.parse(Path(randomness.__file__).read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "urandom" in names
    assert not names & {"random", "default_rng", "RandomState", "seed", "manual_seed", "time", "token_bytes"}
