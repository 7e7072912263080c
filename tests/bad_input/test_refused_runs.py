"""Runs that are refused, or have nothing to do: nothing is spent, and what is there stays."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.privacy.ledger import Ledger
from loop_support import cheap_trainings


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_trainings(monkeypatch.setattr)


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main([str(word) for word in words])
    return code, capsys.readouterr().err


def spent(folder: Path) -> float:
    """What the ledger of the tiny recipe says was spent."""
    path = folder / "tiny.ledger"
    if not path.exists():
        return 0.0
    with Ledger.open(path) as ledger:
        return ledger.spent().epsilon


_TRAINED: list[Path] = []


@pytest.fixture
def trained(tiny_recipe: Path, tmp_path: Path) -> Path:
    """A folder with a recipe, its ledger, and the finished run `run`; trained once for this file."""
    if not _TRAINED:
        assert main(["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 0
        _TRAINED.append(tmp_path)
    return _TRAINED[0]


@pytest.mark.slow
def test_resume_with_another_recipe_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = spent(trained)
    code, said = called(
        capsys, "train", trained / "recipe.yaml", "--out", trained / "run", "--set", "training.ema=0.5"
    )
    assert code == 2
    assert "training.ema" in said
    assert spent(trained) == before > 0


def test_the_same_recipe_again_says_that_it_is_done(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spent(trained)
    command = ["train", str(trained / "recipe.yaml"), "--out", str(trained / "run"), "--json"]
    assert main([*command, "--set", "runtime.rows_per_pass=7"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    fields = {"release", "epsilon", "delta", "steps_charged", "trainable_parameters", "not_private"}
    assert set(document) == fields
    assert document["steps_charged"] == 3
    assert "done" in captured.err
    assert spent(trained) == before


def test_a_plan_says_what_its_ledger_has_room_for(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = spent(trained)
    recipe = str(trained / "recipe.yaml")
    assert main(["plan", recipe]) == 0
    assert "note: a new run would be refused: this run would bring the ledger" in capsys.readouterr().err
    assert main(["plan", recipe, "--set", "budget.adjacency=zero_out"]) == 0
    assert "note: a new run would be refused: the ledger" in capsys.readouterr().err
    assert main(["plan", recipe, "--set", "budget.ledger=none.ledger"]) == 0
    assert "ledger" not in capsys.readouterr().err
    assert spent(trained) == before


def test_a_run_among_the_private_images_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spent(trained)
    (tmp_path / "own" / "class 0").mkdir(parents=True)
    for out in (tmp_path / "own", tmp_path / "own" / "class 0" / "run"):
        change = ["--set", f"data.path={tmp_path / 'own'}", "--set", "data.label=folder"]
        code, said = called(capsys, "train", trained / "recipe.yaml", "--out", out, *change)
        assert code == 2
        assert f"error: {out} lies in data.path, the folder of the private images" in said
    assert [path.name for path in (tmp_path / "own").rglob("*")] == ["class 0"]
    assert spent(trained) == before


@pytest.mark.parametrize("place", ["scan.png", "healthy/scan.PNG", "private/scan.dcm", "metadata.csv"])
def test_a_run_in_another_folder_of_images_is_refused(
    place: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spent(trained)
    (tmp_path / "others" / place).parent.mkdir(parents=True)
    (tmp_path / "others" / place).touch()
    code, said = called(capsys, "train", trained / "recipe.yaml", "--out", tmp_path / "others")
    assert (code, f"error: {tmp_path / 'others'} holds images" in said) == (2, True)
    assert not (tmp_path / "others" / "release").exists()
    assert spent(trained) == before


def test_a_cap_that_is_reached_is_refused_with_exit_3(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spent(trained)
    code, said = called(capsys, "train", trained / "recipe.yaml", "--out", trained / "two", "--quiet")
    assert code == 3
    assert "cap" in said
    assert spent(trained) == before


def test_a_tampered_ledger_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.ledger"
    shutil.copy(trained / "tiny.ledger", copy)
    forget_an_entry(copy)
    ledger = f"budget.ledger={copy}"
    code, said = called(
        capsys, "train", trained / "recipe.yaml", "--out", tmp_path / "run", "--quiet", "--set", ledger
    )
    assert code == 2, said
    assert "copy.ledger" in said
    assert not (tmp_path / "run" / "release" / "certificate.json").exists()


def forget_an_entry(path: Path) -> None:
    """Removes the last but one entry of a ledger, triggers first."""
    ledger = sqlite3.connect(path)
    names = ledger.execute("select type, name from sqlite_master").fetchall()
    for kind, name in names:
        if kind == "trigger":
            ledger.execute(f"drop trigger {name}")
    (table,) = [name for kind, name in names if kind == "table" and not name.startswith("sqlite_")]
    ledger.execute(f"delete from {table} where rowid = (select max(rowid) - 1 from {table})")
    ledger.commit()
    ledger.close()


def test_a_finished_run_whose_ledger_is_gone_says_so(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = trained / "tiny.ledger"
    kept = ledger.read_bytes()
    ledger.unlink()
    try:
        code, said = called(capsys, "train", trained / "recipe.yaml", "--out", trained / "run")
        assert code == 0
        assert f"its ledger {ledger} is missing: restore it" in said
        assert not ledger.exists()
    finally:
        ledger.write_bytes(kept)


def test_what_is_left_of_a_cap_is_said(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = called(capsys, "train", trained / "recipe.yaml", "--out", trained / "two", "--quiet")
    assert code == 3
    assert "nothing usable is left of the cap" in said or "is left, less as runs" in said


@pytest.mark.parametrize("words", [["generate", "none"], ["train", "recipe.yaml", "--out", "run"]])
def test_refusals_that_need_no_torch_come_before_it(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "base: b\ndata: {path: x}\nbudget: {epsilon: 1}\nmechanism: {population: 9}\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("base: other\n")
    code = (
        "import sys; from dp_diffusers.cli.main import main; "
        f"code = main({words!r}); sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
