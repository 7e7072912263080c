"""The ledger's file: an append-only SQLite table whose rows are chained by hashes.

Guarantee: `append` returns after the row is on the disk, rows are never changed (triggers forbid it, the
chain shows it), and two processes never interleave. Imports the standard library only. Source: SQLite's
"Atomic Commit" and `PRAGMA synchronous`; hash chains after Haber and Stornetta 1991.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from dp_diffusers.errors import LedgerError
from dp_diffusers.privacy.canonical import canonical_json, sha256_of_text
from dp_diffusers.whole_files import is_alive

MEMORY: Final = ":memory:"
EMPTY_HEAD: Final = "0" * 64
APPLICATION_ID: Final = 0x64706C67
FORMAT: Final = 2
BUSY_SECONDS: Final = 10.0

_SCHEMA: Final = {
    "entries": (
        "CREATE TABLE entries (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, run TEXT NOT NULL, "
        "content TEXT NOT NULL, hash TEXT NOT NULL UNIQUE)"
    ),
    "by_run": "CREATE INDEX by_run ON entries (run, seq)",
    "by_kind": "CREATE INDEX by_kind ON entries (kind, seq)",
    "never_update": (
        "CREATE TRIGGER never_update BEFORE UPDATE ON entries "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    ),
    "never_delete": (
        "CREATE TRIGGER never_delete BEFORE DELETE ON entries "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    ),
    "never_replace": (  # a row that replaces another deletes it without asking the trigger above
        "CREATE TRIGGER never_replace BEFORE INSERT ON entries "
        "WHEN EXISTS (SELECT 1 FROM entries WHERE seq = NEW.seq OR hash = NEW.hash) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    ),
}
# Format 1, of the first ledgers, lacks the last trigger; they go on as they are.
_SCHEMAS: Final = {
    1: {name: sql for name, sql in _SCHEMA.items() if name != "never_replace"},
    FORMAT: _SCHEMA,
}


@dataclass(frozen=True)
class Entry:
    """One row: `kind` and `run` (empty for the first), its content, and the chain's head after it."""

    seq: int
    kind: str
    run: str
    content: dict[str, Any]
    hash: str


class LedgerFile:
    """Connection to one ledger; every method raises `LedgerError` for a file that cannot be trusted."""

    def __init__(self, path: str | Path, *, create: bool = True, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = str(path)
        with self._one_line_errors():
            if self.path != MEMORY:
                self._make_or_find(Path(self.path), create)
            self._connection = sqlite3.connect(
                self.path, timeout=busy_seconds, isolation_level=None, cached_statements=32
            )
        with self._one_line_errors():
            # A journal that stays is voided in place, and that is synced at this setting: no commit has the
            # file system make or drop an entry or a block for it, which would wait for other files' writes.
            self._connection.execute("PRAGMA journal_mode = PERSIST")
            self._connection.execute("PRAGMA synchronous = EXTRA")
            if self.path == MEMORY:
                _write_schema(self._connection)
            self._verify()

    def close(self) -> None:
        """Closes the connection; nothing is pending."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Holds the only write lock; on any exception nothing of it was written."""
        with self._one_line_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def append(self, kind: str, run: str, **fields: Any) -> Entry:
        """Adds one row at the end of the chain; call it inside `transaction`."""
        last = self._rows("ORDER BY seq DESC LIMIT 1")
        seq, head = (last[0].seq + 1, last[0].hash) if last else (1, EMPTY_HEAD)
        content = {"seq": seq, "kind": kind, "run": run, **fields}
        text = canonical_json(content)
        entry = Entry(seq, kind, run, content, sha256_of_text(head + text))
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (seq, kind, run, text, entry.hash)
        )
        return entry

    def entries(self) -> list[Entry]:
        """All rows, oldest first."""
        with self._one_line_errors():
            return self._rows("ORDER BY seq")

    def of_kind(self, *kinds: str) -> list[Entry]:
        """All rows of these kinds, oldest first."""
        marks = ", ".join("?" * len(kinds))
        with self._one_line_errors():
            return self._rows(f"WHERE kind IN ({marks}) ORDER BY seq", *kinds)

    def last_of_run(self, run: str, kind: str | None = None) -> Entry | None:
        """The newest row of `run`, of this kind if one is given."""
        with self._one_line_errors():
            if kind is None:
                rows = self._rows("WHERE run = ? ORDER BY seq DESC LIMIT 1", run)
            else:
                # by kind: a run has few lanes, and a hundred thousand charges after the newest of them
                wanted = "INDEXED BY by_kind WHERE kind = ? AND run = ? ORDER BY seq DESC LIMIT 1"
                rows = self._rows(wanted, kind, run)
        return rows[0] if rows else None

    def head(self) -> str:
        """Hash of the newest row; 64 zeros when there is none."""
        with self._one_line_errors():
            rows = self._rows("ORDER BY seq DESC LIMIT 1")
        return rows[0].hash if rows else EMPTY_HEAD

    def has_head(self, head: str) -> bool:
        """Whether `head` is, or once was, the head of this chain."""
        with self._one_line_errors():
            return head == EMPTY_HEAD or bool(self._rows("WHERE hash = ?", head))

    def _rows(self, clause: str, *values: Any) -> list[Entry]:
        query = f"SELECT seq, kind, run, content, hash FROM entries {clause}"
        rows = self._connection.execute(query, values).fetchall()
        return [
            Entry(seq, kind, run, self._content(seq, text), digest) for seq, kind, run, text, digest in rows
        ]

    def _content(self, seq: int, text: str) -> dict[str, Any]:
        with contextlib.suppress(ValueError, TypeError):
            content = json.loads(text)
            if isinstance(content, dict):
                return content
        raise self._damaged(f"entry {seq} cannot be read")

    def _make_or_find(self, path: Path, create: bool) -> None:
        if path.is_dir():
            raise LedgerError(
                f"expected a ledger file, got the folder {path}", hint="name a file in budget.ledger"
            )
        if not path.exists():
            if not create:
                raise LedgerError(f"no ledger at {path}", hint="the first `train` on a data set creates it")
            _make(path)
        _forget_unfinished(path)
        if path.stat().st_size == 0:  # a ledger is born whole, so an empty file was cut
            raise self._damaged("the file is empty")

    def _verify(self) -> None:
        """Reads the whole chain. Raises `LedgerError` unless every row follows from the one before."""
        execute = self._connection.execute
        if execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise self._foreign()
        if (found := execute("PRAGMA user_version").fetchone()[0]) not in _SCHEMAS:
            raise LedgerError(
                f"{self.path} has ledger format {found}, this version reads up to {FORMAT}",
                hint="a newer dp-diffusers wrote it, and reads it",
            )
        if dict(execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")) != _SCHEMAS[found]:
            raise self._damaged("its tables or triggers were changed")
        # The chain covers the rows; answers come from the indexes, which lack rows in a file that was cut.
        if execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise self._damaged("its rows and its indexes differ")
        head, rows = EMPTY_HEAD, execute("SELECT seq, kind, run, content, hash FROM entries ORDER BY seq")
        for expected, (seq, kind, run, text, digest) in enumerate(rows, start=1):
            head = sha256_of_text(f"{head}{text}")
            content = self._content(expected, text)
            named = (content.get("seq"), content.get("kind"), content.get("run"))
            if digest != head or (seq, kind, run) != named or seq != expected:
                raise self._damaged(f"entry {expected} does not follow from the one before")

    def _foreign(self) -> LedgerError:
        return LedgerError(
            f"{self.path} is not a ledger",
            hint="name the ledger in budget.ledger; if this was it, restore its newest copy",
        )

    def _damaged(self, why: str) -> LedgerError:
        return LedgerError(
            f"the ledger {self.path} is damaged or was altered: {why}",
            hint="restore the newest copy that no run was charged after; never start a new one instead",
        )

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error
        except OSError as error:
            raise LedgerError(
                f"cannot use the ledger {self.path}: {error.strerror or error}", hint="nothing was charged"
            ) from error

    def _explain(self, error: sqlite3.Error) -> LedgerError:
        text = str(error)
        if isinstance(error, sqlite3.ProgrammingError):  # about this process, not about the file
            return LedgerError(
                f"cannot use the ledger {self.path} here: it was closed, or opened in another thread",
                hint="open it where it is used; nothing was charged",
            )
        if "locked" in text:
            return LedgerError(
                f"the ledger {self.path} is locked by another process",
                hint="wait until that process has finished; a ledger on a network disk may not work",
            )
        if "full" in text or "readonly" in text or "disk I/O" in text or "unable to open" in text:
            return LedgerError(f"cannot write the ledger {self.path}: {text}", hint="nothing was charged")
        return self._foreign() if "not a database" in text else self._damaged(text)


def _write_schema(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    for statement in _SCHEMA.values():
        connection.execute(statement)


def _make(path: Path) -> None:
    """Creates an empty ledger under another name and links it into place: it is there whole or not at all."""
    if not path.parent.is_dir():
        raise LedgerError(
            f"no folder {path.parent} for the ledger {path.name}",
            hint="make the folder, or name another file",
        )
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    try:
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(new, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("PRAGMA synchronous = EXTRA")
            _write_schema(connection)
        _put_in_place(new, path)
    finally:
        new.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_unfinished(path: Path) -> None:
    """Deletes what processes left that died while they made this ledger."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new*"):
        number = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if number.isdigit() and not is_alive(int(number)):
            left.unlink(missing_ok=True)


def _put_in_place(new: Path, path: Path) -> None:
    try:
        os.link(new, path)
    except FileExistsError:  # another process was first; its file is as good
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            os.rename(new, path)


def utc_now() -> str:
    """The date and time for entries that begin or end something; charges carry none."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
