"""A disk that is full, read-only or broken from any durable call on: one line, exit 2, and it resumes.

The calls are those of `seams.py`; from one of them on, all of them fail. For each of them, in turn, with
ENOSPC, EROFS and EIO.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_account import Tally, at_the_end, left_over
from test_seams import STEPS, Start, fresh, seams_of

from dp_diffusers.cli.main import main
from loop_support import charges

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)


def broken_everywhere(start: Start, folder: Path, kept: Path | None = None) -> Tally:
    """One process for each seam finds the disk broken there; the next one, with a whole disk, ends it."""
    tally = Tally()
    for at, name in enumerate(seams_of(start, folder), start=1):
        fresh(folder, kept)
        error = ERRORS[at % len(ERRORS)]
        where = f"{errno.errorcode[error]} from seam {at}, {name}"
        code = start(seams={"at": at, "when": "error", "error": error})
        said = (folder / "output").read_text()
        if code != 2 and not (code == 0 and name.split()[0] in ("unlink", "rmdir")):
            tally.found.append(f"{where}: exit {code}, {said[-200:]}")
        if "Traceback" in said or (code == 2 and "\nhint: " not in said):
            tally.found.append(f"{where}: {said[-200:]}")
        tally.killed(folder, errno.errorcode[error])
        if start() != 0:
            tally.found.append(f"{where}: does not resume: {(folder / 'output').read_text()[-200:]}")
            continue
        tally.ended(folder)
        tally.found += [f"{where}: {left}" for left in left_over(folder, images=kept is not None)]
        at_the_end(folder, images=kept is not None)
    return tally


@pytest.mark.slow
def test_guarantee_a_training_on_a_disk_that_breaks_at_any_seam(trainings: Any, tiny_recipe: Path) -> None:
    def start(**options: Any) -> int:
        return int(trainings.run(tiny_recipe, STEPS, **options))

    tally = broken_everywhere(start, tiny_recipe.parent)
    tally.report("train, disk broken from every seam on", "failures")


@pytest.mark.slow
def test_guarantee_a_generation_on_a_disk_that_breaks_at_any_seam(
    trainings: Any, tiny_recipe: Path, tmp_path: Path
) -> None:
    folder, kept = tiny_recipe.parent, tmp_path / "kept"
    assert trainings.run(tiny_recipe, STEPS) == 0
    kept.mkdir()
    shutil.copytree(folder / "run", kept / "run")
    for name in ("log", "tiny.ledger"):
        shutil.copy(folder / name, kept / name)

    def start(**options: Any) -> int:
        return int(trainings.wait(trainings.command(folder, ["generate", str(folder / "run")], **options)))

    fresh(folder, kept)
    broken_everywhere(start, folder, kept).report("generate, disk broken from every seam on", "failures")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def refused(command: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Runs a command that has to be refused in one line with a hint; what it said."""
    found = main([*command, "--quiet"])
    said = capsys.readouterr().err
    assert found == code, said
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    assert "hint: " in said
    return said


@pytest.mark.slow
def test_a_read_only_disk_is_refused_and_costs_nothing(
    disk: Path, trainings: Any, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the run folder, for the ledger, and for a generation into a finished run."""
    run, ledger = disk / "run", disk / "tiny.ledger"
    train = ["train", str(tiny_recipe), "--set", STEPS]
    away = [*train, "--out", str(run)]
    remount(disk, "ro")
    refused(away, capsys)
    refused([*train, "--out", str(tiny_recipe.parent / "here"), "--set", f"budget.ledger={ledger}"], capsys)
    assert charges(tiny_recipe.parent / "tiny.ledger") == []
    remount(disk, "rw")
    assert trainings.run(tiny_recipe, STEPS, f"budget.ledger={ledger}", out=str(run)) == 0
    remount(disk, "ro")
    refused(["generate", str(run)], capsys)
    remount(disk, "rw")
    assert main(["generate", str(run), "--quiet"]) == 0
    assert len(charges(ledger)) == 3


@pytest.mark.slow
def test_a_generation_on_a_disk_of_any_size_is_exit_0_or_2(
    disk: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, release = disk / "run", disk / "run" / "release"
    command = ["train", str(tiny_recipe), "--set", STEPS, "--out", str(run), "--quiet"]
    assert main(command) == 0
    capsys.readouterr()
    certificate = (release / "certificate.json").read_bytes()
    codes = []
    for room in (0, 4, 8, 12, 16, 20, 24, 32, 48, 1024):
        ballast = disk / "ballast"
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(max(shutil.disk_usage(disk).free // 1024 - room, 0) * 1024))
        codes.append(main(["generate", str(run), "--quiet"]))
        said = capsys.readouterr().err
        assert codes[-1] in (0, 2), (room, said)
        assert "Traceback" not in said
        assert (release / "certificate.json").read_bytes() == certificate or codes[-1] == 0
    assert (codes[0], codes[-1]) == (2, 0)
    assert main(["certificate", "verify", str(release)]) == 0
