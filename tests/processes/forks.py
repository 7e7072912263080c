"""Several processes of one team, forked from the tests' own, and what each of them came to."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What a launcher sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def in_processes(count: int, work: Callable[[Any], Any]) -> list[Any]:
    """What `work(team)` returns in each of `count` processes; an error comes back as its class name."""
    port = free_port()
    children = [_forked(rank, count, port, work) for rank in range(count)]
    found = []
    for pid, reading in children:
        with os.fdopen(reading, "rb") as stream:
            found.append(pickle.load(stream))
        os.waitpid(pid, 0)
    return found


def _forked(rank: int, count: int, port: int, work: Callable[[Any], Any]) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.environ.update(environment(rank, count, port))
        from dp_diffusers.processes import team

        try:
            answer: Any = work(team())
        except BaseException as error:
            if os.environ.get("SHOW_ERRORS"):
                traceback.print_exc()
            answer = type(error).__name__
        with os.fdopen(writing, "wb") as stream:
            pickle.dump(answer, stream)
    finally:
        os._exit(0)
