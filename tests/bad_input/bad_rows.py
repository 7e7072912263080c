"""A row of the table of bad input, and what holds for each of them.

Guarantees checked for a row: the exit code; one line per problem and the hint; no traceback and no word of
Python on the screen; nothing spent; nothing lost, and nothing left behind that blocks a corrected recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.privacy.ledger import Ledger

# What a command may leave in the folder of a row: the lock of a run folder, and a ledger without charges.
LEFT = {"run/private/lock", "data.ledger", "data.ledger-journal"}
PYTHON = re.compile(
    r"Traceback|crash\.log|Input should|value_error|type=|\[Errno|\b[A-Z]\w*(Error|Exception|Warning)\b"
    r"|NoneType|<class|object at 0x|\b(str|int|float|dict|list)_type\b|pydantic|sqlite3|dp_diffusers\."
)


Spoil = Callable[[Path], object]


def leave(folder: Path) -> None:
    """Spoils nothing."""


def writes(name: str, text: str) -> Spoil:
    """Puts a text in the place of a file."""
    return lambda folder: (folder / name).write_text(text)


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""
    return lambda folder: [spoil(folder) for spoil in spoils]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A command and what must be said; `{folder}` stands for the folder that `spoil` has prepared.

    says: regex of the line after `error:`. hint: regex of the line after `hint:`, None where none can help.
    """

    name: str
    command: tuple[str, ...]
    says: str
    hint: str | None
    code: int = 2
    spoil: Spoil = leave
    problems: int = 1
    answers: str = ""


def check(row: Row, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a row in `folder` and asserts all that holds for every row."""
    row.spoil(folder)
    before = contents(folder)
    capsys.readouterr()
    code = main([word.replace("{folder}", str(folder)) for word in row.command])
    said = capsys.readouterr()
    assert code == row.code, said.err
    assert said.out == row.answers
    is_well_said(row.says, row.hint, said.err, row.problems)
    nothing_is_lost(before, contents(folder))
    nothing_is_spent(before, folder)


def is_well_said(says: str, hint: str | None, said: str, problems: int = 1) -> None:
    """One line per problem, a hint where one can help, and nothing of Python."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(errors) == problems, said
    assert len(errors) + len(hints) == len(lines), f"neither error nor hint: {said}"
    assert re.search(says, "\n".join(errors)), said
    assert not PYTHON.search(said), said
    if hint is None:
        assert not hints, said
    else:
        assert re.search(hint, "\n".join(hints)), said


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def nothing_is_lost(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Every file is as it was, and a corrected recipe finds nothing in its way."""
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= LEFT


def nothing_is_spent(before: dict[str, bytes], folder: Path) -> None:
    """A ledger that was not there has no charge and counts nothing."""
    path = folder / "data.ledger"
    if path.is_file() and "data.ledger" not in before:
        with Ledger.open(path) as ledger:
            assert ledger.spent().epsilon == 0
            assert {entry.kind for entry in ledger.entries()}.isdisjoint({"charge", "query"})
