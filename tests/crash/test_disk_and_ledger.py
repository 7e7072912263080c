"""A full disk and a ledger that is not what it was: one line, exit 2, and nothing is lost or forgotten."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dp_diffusers.cli.main import main
from dp_diffusers.data.private_images import PrivateImages
from dp_diffusers.finetuning import train
from dp_diffusers.privacy import certified_numbers
from dp_diffusers.privacy.ledger_file import LedgerFile
from dp_diffusers.privacy.reservation import Reservation
from dp_diffusers.recipe import Recipe
from dp_diffusers.run import paying
from dp_diffusers.run.folder import RunFolder
from dp_diffusers.training import Loop
from dp_diffusers.whole_files import temporary_of
from loop_support import charges, problems

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a file that is always full")


def trained(recipe: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """`train --quiet` into `run`: its exit code and what it said."""
    code = main(["train", str(recipe), "--out", str(recipe.parent / "run"), "--quiet"])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


@needs_full
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("private/run.json.tmp", marks=pytest.mark.slow),
        pytest.param("private/checkpoint.pt.tmp", marks=pytest.mark.slow),
        pytest.param("release/adapter/adapter_config.json", marks=pytest.mark.slow),
        "release/README.md",
    ],
)
def test_a_full_disk_is_exit_2_and_resumable(
    path: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tiny_recipe.parent / "run" / path
    if place.suffix == ".tmp":
        place = temporary_of(place.with_suffix(""))
    place.parent.mkdir(parents=True)
    place.symlink_to(FULL)
    code, said = trained(tiny_recipe, capsys)
    assert code == 2, said
    assert "disk is full" in said
    assert "resume" in said
    place.unlink(missing_ok=True)
    assert problems(tiny_recipe.parent) == []
    assert trained(tiny_recipe, capsys) == (0, "")
    assert len(charges(tiny_recipe.parent / "tiny.ledger")) == 12


@pytest.mark.slow
def test_a_ledger_on_a_full_disk_is_exit_2_and_resumable(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = LedgerFile.append

    def full(self: LedgerFile, kind: str, run: str, **fields: Any) -> Any:
        if kind == "charge" and fields["step"] == 1:
            raise sqlite3.OperationalError("database or disk is full")
        return append(self, kind, run, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "append", full)
        code, said = trained(tiny_recipe, capsys)
    assert code == 2
    assert "full" in said
    assert len(charges(tiny_recipe.parent / "tiny.ledger")) == 1
    assert trained(tiny_recipe, capsys) == (0, "")
    assert len(charges(tiny_recipe.parent / "tiny.ledger")) == 12


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2])
def test_a_run_whose_name_cannot_be_written_leaves_no_reservation(
    nth: int, tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = RunFolder.write, []

    def full(self: RunFolder, name: str, document: dict[str, Any]) -> None:
        calls.append(name)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, document)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", full)
        assert trained(tiny_recipe, capsys)[0] == 2
    assert trained(tiny_recipe, capsys) == (0, "")


@pytest.mark.slow
def test_a_reservation_survives_a_start_that_cannot_open_the_ledger(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between reservation and head, then started while the ledger is away."""
    write, ledger = RunFolder.write, tiny_recipe.parent / "tiny.ledger"

    class Killed(BaseException):
        """Nothing is tidied up."""

    def killed(self: RunFolder, name: str, document: dict[str, Any]) -> None:
        if "head" in document:
            raise Killed
        write(self, name, document)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", killed)
        patch.setattr(Reservation, "cancel", lambda self: None)
        patch.setattr(paying, "forget_unspent", lambda *anything: None)
        with pytest.raises(Killed):
            train(Recipe.load(tiny_recipe), tiny_recipe.parent / "run")
    content = ledger.read_bytes()
    ledger.write_bytes(b"not now")
    assert trained(tiny_recipe, capsys)[0] == 2
    ledger.write_bytes(content)
    assert trained(tiny_recipe, capsys) == (0, "")


@pytest.mark.slow
def test_a_disk_of_any_size_is_exit_0_or_2(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run folder and ledger on a real small disk, with every amount of room left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        command = ["train", str(tiny_recipe), "--out", str(disk / "run"), "--quiet"]
        command += ["--set", f"budget.ledger={disk / 'tiny.ledger'}"]
        codes = []
        for room in (0, 8, 24, 40, 48, 56, 64, 80, 100, 130, 160, 200, 1024):
            ballast = disk / "ballast"
            ballast.unlink(missing_ok=True)
            free = shutil.disk_usage(disk).free // 1024
            ballast.write_bytes(bytes(max(free - room, 0) * 1024))
            codes.append(main(command))
            said = capsys.readouterr().err
            assert codes[-1] in (0, 2), (room, said)
            assert "Traceback" not in said
        assert codes[0] == 2
        assert codes[-1] == 0
        assert len(charges(disk / "tiny.ledger")) == 12
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def stopped(recipe: Path) -> list[Path]:
    """A training of twelve steps stopped after the fourth; copies of its ledger after each step."""
    ledger, copies = recipe.parent / "tiny.ledger", []

    def stop(**facts: Any) -> None:
        if "step" in facts:
            copies.append(recipe.parent / f"copy{facts['step']}.ledger")
            shutil.copy(ledger, copies[-1])
        if facts.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.load(recipe), recipe.parent / "run", stop)
    return copies


def accepts_an_older_ledger(recipe: Path, capsys: pytest.CaptureFixture[str], copy: Path) -> bool:
    """Whether a run goes on with a ledger that has forgotten charges."""
    shutil.copy(copy, recipe.parent / "tiny.ledger")
    code, said = trained(recipe, capsys)
    assert code == 0 or (code == 2 and "older copy" in said), said
    return code == 0


@pytest.mark.slow
def test_guarantee_a_ledger_that_forgot_or_changed_is_refused_before_anything_is_read(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    *older, newest = stopped(tiny_recipe)
    ledger = tiny_recipe.parent / "tiny.ledger"
    reads: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(PrivateImages, "open", lambda *args, **options: reads.append(args))
        for copy in (older[0], older[-1]):
            assert not accepts_an_older_ledger(tiny_recipe, capsys, copy)
        content = newest.read_bytes()
        place = content.rindex(b'"step":3')
        ledger.write_bytes(content[: place + 7] + b"9" + content[place + 8 :])
        code, said = trained(tiny_recipe, capsys)
        assert (code, "was altered" in said) == (2, True)
        ledger.unlink()
        code, said = trained(tiny_recipe, capsys)
        assert code == 2
        assert re.search("no ledger|does not contain the head", said)
        assert reads == []
    shutil.copy(newest, ledger)
    assert trained(tiny_recipe, capsys) == (0, "")
    assert len(charges(ledger)) == 12


@pytest.mark.slow
@pytest.mark.planted
def test_planted_checkpoint_without_the_ledgers_head(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Loop.state
    monkeypatch.setattr(Loop, "state", lambda self: {**state(self), "head": None})
    monkeypatch.setattr(certified_numbers, "_require_no_choice", lambda run: None)  # misses them too
    older = stopped(tiny_recipe)[0]
    assert accepts_an_older_ledger(tiny_recipe, capsys, older)
