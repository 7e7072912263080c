"""Bad ledgers and bad requests of them: refused, and not a byte of the ledger changes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from bad_rows import Row, Spoil, check, leave, writes
from faults import write_base

from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger

LEDGER = "{folder}/data.ledger"
RECIPE = """\
base: base
data: {path: images.parquet}
budget: {epsilon: 1, delta: 1.0e-4, ledger: data.ledger, cap: {epsilon: 3, delta: 1.0e-4}}
mechanism: {steps: 4, expected_units: 500, population: 1000}
"""


def row(name: str, words: str, says: str, hint: str | None, spoil: Spoil = leave, code: int = 2) -> Row:
    """`ledger` with these words, where L stands for the ledger."""
    command = tuple(LEDGER if word == "L" else word for word in words.split())
    return Row(name=name, command=("ledger", *command), says=says, hint=hint, spoil=spoil, code=code)


def statements(*lines: str, unprotected: bool = True) -> Spoil:
    """Changes the ledger as whoever owns the file can, its triggers dropped first."""

    def change(folder: Path) -> None:
        with sqlite3.connect(folder / "data.ledger") as connection:
            for name in ("never_update", "never_delete", "never_replace") if unprotected else ():
                connection.execute(f"drop trigger {name}")
            for line in lines:
                connection.execute(line)
        connection.close()

    return change


def rewritten(*lines: str) -> Spoil:
    """Changes rows and puts the triggers back, so that only the chain can tell."""

    def change(folder: Path) -> None:
        from dp_diffusers.privacy.ledger_file import _SCHEMA

        triggers = [sql for sql in _SCHEMA.values() if sql.startswith("CREATE TRIGGER")]
        statements(*lines, *triggers)(folder)

    return change


def sqlite_of_others(folder: Path) -> None:
    (folder / "data.ledger").unlink()
    with sqlite3.connect(folder / "data.ledger") as connection:
        connection.execute("create table entries (a)")
    connection.close()


def cut(kept: int) -> Spoil:
    return lambda folder: (folder / "data.ledger").write_bytes((folder / "data.ledger").read_bytes()[:kept])


def with_base(folder: Path) -> None:
    write_base(folder / "base")
    (folder / "images.parquet").touch()  # there, and of no use: the ledger refuses before anyone opens it


def without_cap(folder: Path) -> None:
    with_base(folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(", cap: {epsilon: 3, delta: 1.0e-4}", ""))


NEWEST = "newest copy"
TRAIN = ("train", "{folder}/recipe.yaml", "--out", "{folder}/run", "--quiet", "--set")
ROWS = [
    row("no ledger", "show {folder}/x.ledger", "ledger not found: .*x.ledger", "first training writes one"),
    row("a folder", "show {folder}", "expected a ledger file, got the folder", "a file"),
    row("a recipe", "show {folder}/recipe.yaml", r"recipe\.yaml is not a ledger", NEWEST),
    row("an empty file", "show L", "the file is empty", NEWEST, writes("data.ledger", "")),
    row("a database of others", "show L", "is not a ledger", NEWEST, sqlite_of_others),
    row(
        "a later format",
        "show L",
        "has ledger format 99, this version reads up to 2",
        "newer",
        statements("PRAGMA user_version = 99", unprotected=False),
    ),
    row("cut in the middle", "show L", "damaged or was altered", NEWEST, cut(9000)),
    row("cut at the start", "show L", "is not a ledger|damaged or was altered", NEWEST, cut(60)),
    row("no triggers", "show L", "tables or triggers were changed", NEWEST, statements()),
    row(
        "a table too many",
        "show L",
        "tables or triggers were changed",
        NEWEST,
        statements("create table x (a)"),
    ),
    row(
        "a row changed",
        "show L",
        "entry 3 does not follow",
        NEWEST,
        rewritten("update entries set content = replace(content, 'lane', 'lame') where seq = 3"),
    ),
    row(
        "a row removed",
        "show L",
        "does not follow from the one before",
        NEWEST,
        rewritten("delete from entries where seq = 4"),
    ),
    row(
        "a row that is no JSON",
        "show L",
        "entry 2 cannot be read|entry 2 does not",
        NEWEST,
        rewritten("update entries set content = '{' where seq = 2"),
    ),
    row("no such run", "settle L forth", "no run 'forth' in the ledger", "'fourth'"),
    row("an ambiguous run", "settle L f", "2 runs of .* begin with 'f'", "more of the name"),
    row("an empty name", "abandon L x", "no run 'x' in the ledger", "ledger show"),
    row(
        "nothing to settle", "settle L second", "has charged nothing that could be settled", "ledger abandon"
    ),
    row("abandon what is settled", "abandon L first", "is settled already", "stays charged"),
    row("settle without a run", "settle L", "missing argument 'RUN'", "--help"),
    row(
        "picture of another kind",
        "show L --picture {folder}/x.png",
        "expected --picture to end in .svg",
        "SVG",
    ),
    row(
        "picture nowhere",
        "show L --picture {folder}/none/x.svg",
        "cannot write .*x.svg: No such file",
        "choose another",
    ),
    row("export of nothing", "export {folder}/x.ledger", "ledger not found", "first training"),
    row("unknown verb", "burn L", "no such command 'burn'", "ledger --help"),
    Row(
        name="train on another unit's ledger",
        command=(*TRAIN, "budget.unit=patient"),
        says="begun with other terms: unit image there, patient asked",
        hint="budget.unit",
        spoil=with_base,
    ),
    Row(
        name="train beyond the cap",
        command=(*TRAIN, "budget.epsilon=2.5"),
        says=r"would bring the ledger .* above its cap of 3",
        hint="left",
        code=3,
        spoil=with_base,
    ),
    Row(
        name="train beyond the ledger's cap without a cap of its own",
        command=(*TRAIN, "budget.epsilon=2.5"),
        says=r"would bring the ledger .* above its cap of 3",
        hint="left",
        code=3,
        spoil=without_cap,
    ),
]

_WRITTEN: list[bytes] = []


def world(folder: Path) -> None:
    """A ledger with a settled run and two that have charged nothing, and a recipe of its data set."""
    if not _WRITTEN:
        plan = Plan.calibrate(
            Budget(1.0, 1e-4, cap={"epsilon": 3.0, "delta": 1e-4}),
            DPSGD(steps=4, expected_units=500, population=1000),
        )
        with Ledger.open(folder / "data.ledger") as ledger:
            account = ledger.reserve(plan, run_id="first")
            account.open_lane(RunKeys.fresh())
            for step in range(4):
                account.charge(step)
            account.settle()
            ledger.reserve(plan, run_id="second")
            ledger.reserve(plan, run_id="fourth").cancel()
        _WRITTEN.append((folder / "data.ledger").read_bytes())
        (folder / "data.ledger-journal").unlink(missing_ok=True)
    (folder / "data.ledger").write_bytes(_WRITTEN[0])
    (folder / "recipe.yaml").write_text(RECIPE)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_ledgers(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world(tmp_path)
    check(row, tmp_path, capsys)
