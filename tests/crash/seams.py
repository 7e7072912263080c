"""The injected file layer: every call that makes something durable is a seam, and this process may die there.

A seam is a call of `os.fsync`, `os.replace`, `os.rename`, `os.link`, `os.unlink` or `os.rmdir` (pathlib and
shutil call these), or a statement that commits to SQLite. A clean run writes their names down; then one
process for each seam and each side of it dies there, or finds the disk broken from there on.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("fsync", "replace", "rename", "link", "unlink", "rmdir")
WRITES = ("CREATE", "INSERT", "PRAGMA APPLICATION_ID =", "PRAGMA USER_VERSION =")


class Seams:
    """Counts the seams of this process from 1; writes their names to `names`, or dies at number `at`.

    `when`: `before` or `after` the call; or `error`: this call and all after it fail with the number `error`.
    """

    def __init__(
        self, *, names: str | None = None, at: int = 0, when: str = "before", error: int = 0
    ) -> None:
        self._names = names
        self._at, self._when, self._error = at, when, error
        self._count = 0

    def install(self) -> None:
        """Wraps the file layer of this process."""
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        sqlite3.connect = functools.partial(  # type: ignore[assignment]
            sqlite3.connect, factory=self._connection()
        )

    def pass_through(self, name: str, call: Callable[[], Any], fail: Callable[[int], Any]) -> Any:
        """Makes one durable call, unless this process dies before it or just after, or it has to `fail`."""
        self._count += 1
        if self._names is not None:
            with open(self._names, "a") as stream:
                stream.write(name + "\n")
        self._die_if("before")
        if self._when == "error" and self._count >= self._at:
            fail(self._error)
        try:
            return call()
        finally:
            self._die_if("after")

    def _die_if(self, when: str) -> None:
        if (self._count, self._when) == (self._at, when):
            os.kill(os.getpid(), signal.SIGKILL)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def called(first: Any, *others: Any, **options: Any) -> Any:
            place = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            title = f"{name} {Path(place).name}"

            def fail(number: int) -> None:
                raise OSError(number, os.strerror(number), *([] if isinstance(first, int) else [str(first)]))

            return self.pass_through(title, lambda: real(first, *others, **options), fail)

        return called

    def _connection(self) -> type[sqlite3.Connection]:
        seams = self

        class Connection(sqlite3.Connection):
            """A connection whose commits are seams."""

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                run = super().execute
                if not self._commits(sql):
                    return run(sql, *values)
                word = " ".join(sql.split()[:2])
                return seams.pass_through(  # type: ignore[no-any-return]
                    f"commit {word}", lambda: run(sql, *values), fail_to_commit
                )

            def _commits(self, sql: str) -> bool:
                text = sql.strip().upper()
                return text == "COMMIT" or (text.startswith(WRITES) and not self.in_transaction)

        return Connection


def fail_to_commit(number: int) -> None:
    """What SQLite says on a full, a read-only and a broken disk."""
    said = {errno.ENOSPC: "database or disk is full", errno.EROFS: "attempt to write a readonly database"}
    raise sqlite3.OperationalError(said.get(number, "disk I/O error"))


def names_of(path: Path) -> list[str]:
    """The seams that a clean run passed, in order."""
    return path.read_text().splitlines()
