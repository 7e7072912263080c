"""`ledger show`, `settle`, `abandon`, `export` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dp_diffusers.cli.account_text import short_names
from dp_diffusers.cli.main import main
from dp_diffusers.engine.randomness import RunKeys
from dp_diffusers.mechanisms.dpsgd import DPSGD
from dp_diffusers.mechanisms.histogram import histogram_query
from dp_diffusers.plan import Plan
from dp_diffusers.privacy.budget import Budget
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.rounding import rounded_up_text

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "spending.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A ledger with a finished run, one that goes on, and one that has charged nothing."""
    budget = Budget(1.0, 1e-4, cap={"epsilon": 3.0, "delta": 1e-4})
    sizes = DPSGD(steps=20, expected_units=500, population=1000)
    plan = Plan.calibrate(budget, sizes, [histogram_query(budget, 3)])
    path = tmp_path_factory.mktemp("ledger") / "data.ledger"
    with Ledger.open(path) as ledger:
        for name, steps in (("first-run", 20), ("second-run", 4)):
            account = ledger.reserve(plan, run_id=name)
            account.open_lane(RunKeys.fresh())
            account.charge_query("histogram")
            for step in range(steps):
                account.charge(step)
            if steps == 20:
                account.settle()
        ledger.reserve(plan, run_id="third-run")
    return path.read_bytes()


@pytest.fixture
def path(written: bytes, tmp_path: Path) -> Path:
    (tmp_path / "data.ledger").write_bytes(written)
    return tmp_path / "data.ledger"


STATED = ("--unseen", "--stopped-elsewhere")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*words: str) -> tuple[int, str, str]:
        code = main(["ledger", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return called


def test_show_is_a_table_of_eighty_columns_without_colour(path: Path, call: Call) -> None:
    code, out, _ = call("show", str(path))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["run", "status", "unit", "steps/limit", "epsilon", "at", "delta", "0.0001"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["first-run", "settled", "image"],
        ["second-run", "open", "image"],
        ["third-run", "open", "image"],
    ]
    assert lines[4].startswith("second-run is open: epsilon ")
    assert "[####" in lines[5]
    assert lines[5].endswith(" %")
    assert all(len(line) <= 80 and line.isprintable() for line in lines)


def test_show_says_where_open_runs_are_and_that_what_they_hold_is_reserved(path: Path, call: Call) -> None:
    with Ledger.open(path) as ledger:
        account = ledger.resume("third-run")
        account.open_lane(RunKeys.fresh(), folder="/runs/third")
        charged, reserved = ledger.cost_of_charged(ledger.run("second-run")), ledger.run("second-run").cost
    *_, second, third, total = call("show", str(path))[1].splitlines()
    numbers = f"{rounded_up_text(charged.epsilon)} of its {rounded_up_text(reserved.epsilon)} charged"
    assert second == f"second-run is open: epsilon {numbers}"
    assert third.startswith("third-run is open in /runs/third: epsilon 0 of its ")
    assert " spent or reserved, cap 3, both at delta 0.0001 " in total
    call("settle", str(path), "second", "--stopped-elsewhere")
    call("abandon", str(path), "third", "--stopped-elsewhere")
    assert " spent, cap 3, both at delta 0.0001 " in call("show", str(path))[1]


def test_show_in_json_only_adds_fields(path: Path, call: Call) -> None:
    document = json.loads(call("show", str(path), "--json")[1])
    assert set(document) >= {"spent_epsilon", "cap_epsilon", "delta", "head", "entries"}
    first, second, third = document["runs"]
    assert (first["run"], first["steps_charged"], first["queries_charged"]) == (
        "first-run",
        20,
        {"histogram": 1},
    )
    assert (second["status"], third["queries_charged"]) == ("open", {})
    assert document["rule"] == "filter"


def test_the_picture_is_well_formed_and_stands_alone(path: Path, call: Call, tmp_path: Path) -> None:
    code, _, err = call("show", str(path), "--picture", str(tmp_path / "spending.svg"))
    assert (code, err) == (0, f"picture: {tmp_path / 'spending.svg'}\n")
    text = (tmp_path / "spending.svg").read_text()
    root = ElementTree.fromstring(text)
    names = [element.tag.split("}")[1] for element in root]
    assert names[:2] == ["title", "desc"]
    assert root.attrib["role"] == "img"
    assert "cap of epsilon 3 at that delta" in text
    assert "(epsilon, at delta 0.0001)" in text
    assert ">cap 3 at delta 0.0001</text>" in text
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for name in ("first-run", "second-run"):
        assert f"run {name}: epsilon" in text


@pytest.mark.parametrize(
    ("target", "says"), [("spending.png", "end in .svg"), ("no/folder/spending.svg", "cannot write")]
)
def test_a_picture_that_cannot_be_is_refused(
    path: Path, call: Call, tmp_path: Path, target: str, says: str
) -> None:
    code, _, err = call("show", str(path), "--picture", str(tmp_path / target))
    assert code == 2
    assert says in err


def test_a_picture_of_an_empty_ledger(call: Call, tmp_path: Path) -> None:
    Ledger.open(tmp_path / "empty.ledger").close()
    code, _, _ = call("show", str(tmp_path / "empty.ledger"), "--picture", str(tmp_path / "empty.svg"))
    assert code == 0
    assert "No runs" in (tmp_path / "empty.svg").read_text()


def test_settle_says_what_is_released(path: Path, call: Call) -> None:
    code, out, _ = call("settle", str(path), "second", "--stopped-elsewhere")
    assert code == 0
    first, second, total = out.splitlines()
    assert first.startswith("run second-run is settled: 4 of 20 steps charged, epsilon ")
    assert second.startswith("alone it counts all of ")
    assert "cap 3" in total
    assert call("settle", str(path), "second")[0] == 0
    assert "counts as" in call("show", str(path))[1]


def test_settle_unseen_in_json(path: Path, call: Call) -> None:
    document = json.loads(call("settle", str(path), "second-run", *STATED, "--json")[1])
    assert document["status"] == "settled"
    assert document["counted_epsilon"] == document["epsilon"] < document["reserved_epsilon"]
    with Ledger.open(path) as ledger:
        assert document["spent_epsilon"] == ledger.spent().epsilon
        assert document["head"] == ledger.head


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["settle", "third"], "charged nothing", "ledger abandon"),
        (["settle", "secnd-run"], "no run 'secnd-run'", "did you mean 'second-run'?"),
        (["abandon", "first"], "settled already", "stays charged"),
        (["settle", "second"], "a process may be at work on it", "--stopped-elsewhere"),
        (["abandon", "second"], "a process may be at work on it", "--stopped-elsewhere"),
    ],
)
def test_refusals_are_one_line_and_a_hint(
    path: Path, call: Call, words: list[str], says: str, hint: str
) -> None:
    before = path.read_bytes()
    code, out, err = call(words[0], str(path), *words[1:])
    assert (code, out) == (2, "")
    assert says in err.splitlines()[0]
    assert hint in err
    assert path.read_bytes() == before


def test_abandon(path: Path, call: Call) -> None:
    code, out, _ = call("abandon", str(path), "third")
    assert code == 0
    assert "third-run is abandoned: 0 of 20 steps charged" in out
    assert "abandoned" in call("show", str(path))[1]


def test_cancelled_runs_are_one_line_but_for_one_alone(path: Path, call: Call) -> None:
    with Ledger.open(path) as ledger:
        plan = Plan.calibrate(Budget(0.1, 1e-4), DPSGD(steps=2, expected_units=500, population=1000))
        for number in range(4):
            ledger.reserve(plan, run_id=f"failed-{number}").cancel()
    call("abandon", str(path), "third")
    *_, abandoned, folded, _, total = call("show", str(path))[1].splitlines()
    assert abandoned.split()[:2] == ["third-run", "abandoned"], "somebody decided that"
    assert folded == "4 cancelled, nothing charged"
    assert " spent or reserved, cap 3, both at delta 0.0001 " in total
    runs = json.loads(call("show", str(path), "--json")[1])["runs"]
    assert [run["status"] for run in runs[-4:]] == ["cancelled"] * 4


def test_a_hint_can_be_typed_where_the_ledger_s_name_has_blanks(path: Path, call: Call) -> None:
    moved = path.rename(path.with_name("our data.ledger"))
    assert f"`dp-diffusers ledger show '{moved}'` lists them" in call("settle", str(moved), "nobody")[2]
    assert f"`dp-diffusers ledger abandon '{moved}' third-run`" in call("settle", str(moved), "third-run")[2]


def test_a_ledger_whose_runs_were_all_cancelled_has_no_unit_yet(call: Call, tmp_path: Path) -> None:
    path = str(tmp_path / "data.ledger")
    with Ledger.open(path) as ledger:
        sizes = DPSGD(steps=2, expected_units=500, population=1000)
        ledger.reserve(Plan.calibrate(Budget(1.0, 1e-4), sizes), run_id="first-run").cancel()
    _, line, total = call("show", path)[1].splitlines()
    assert line.split()[:3] == ["first-run", "cancelled", "-"]
    assert total.endswith("no limit yet: the first run fixes it")
    assert json.loads(call("show", path, "--json")[1])["unit"] is None


def test_guarantee_an_export_can_be_checked_with_the_standard_library(
    path: Path, call: Call, tmp_path: Path
) -> None:
    """The lines of the guide, word for word, find the head, and notice a change."""
    script = GUIDE.read_text().split("```python\n")[1].split("```")[0]
    lines = call("export", str(path))[1]
    assert len(lines.splitlines()) > 20
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", script], input=lines, capture_output=True, text=True, check=False
    )
    with Ledger.open(path) as ledger:
        assert outcome.stdout.strip() == ledger.head, outcome.stderr
    changed = lines.replace('"count":2', '"count":1', 1)
    assert changed != lines
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", script], input=changed, capture_output=True, text=True
    )
    assert outcome.returncode == 1


def test_names_are_cut_where_they_differ() -> None:
    assert short_names(["a" * 32, "b" * 32]) == ["a" * 12, "b" * 12]
    assert short_names(["a" * 15 + "x" * 5, "a" * 15 + "y" * 5]) == ["a" * 15 + "x", "a" * 15 + "y"]
    assert short_names(["same"]) == ["same"]
