"""What must hold after a kill, what must hold at the end, and the count of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dp_diffusers as dpd
from dp_diffusers import checkpoint
from dp_diffusers.errors import DPDiffusersError
from dp_diffusers.privacy.certificate import Certificate
from dp_diffusers.privacy.ledger import Ledger
from dp_diffusers.run.folder import RunFolder
from loop_support import charges, problems, read_log

ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
OF_A_RUN = {"recipe.yaml", "private/lock", "private/run.json", "private/traces.npz"}
OF_A_RELEASE = {f"release/{name}" for name in ("README.md", "certificate.json", *ADAPTER)}
REPORTS: list[str] = []  # what the session says at its end, a line for each series
OF_IMAGES = {
    "private/images.json",
    "release/images/README.md",
    "release/images/data/train-00000-of-00001.parquet",
}


def report(line: str) -> None:
    """Keeps a line for the end of the session."""
    REPORTS.append(line)


@dataclass(kw_only=True)
class Tally:
    """What a series of kills came to: kills by where they fell, and the account of the runs that ended."""

    kills: Counter[str] = field(default_factory=Counter)
    charged: int = 0
    begun: int = 0
    released: int = 0
    lanes: int = 0
    runs: int = 0
    unaccounted: int = 0
    corrupted: int = 0
    found: list[str] = field(default_factory=list)

    def killed(self, folder: Path, where: str) -> None:
        """After a kill: notes where a release is not paid for, or a file does not load."""
        self.kills[where] += 1
        broken = damaged(folder / "run")
        self.corrupted += bool(broken)
        self.unaccounted += unaccounted(folder)
        self.found += [f"{where}: {what}" for what in [*broken, *problems(folder)]]

    def ended(self, folder: Path) -> None:
        """Adds a run that has ended to the account."""
        began, done = read_log(folder / "log")
        self.charged += len(charges(folder / "tiny.ledger"))
        self.begun, self.released = self.begun + len(began), self.released + len(done)
        self.lanes += len({lane for lane, _ in began})
        self.runs += 1

    def report(self, what: str, kind: str = "kills") -> None:
        """Checks that nothing was found, and keeps a line for the end of the session."""
        places = ", ".join(f"{count} {place}" for place, count in sorted(self.kills.items()))
        report(
            f"{what}: {self.kills.total()} {kind} in {self.runs} runs ({places}): {self.charged} steps "
            f"charged, {self.begun} begun, {self.released} released in {self.lanes} lanes; "
            f"{self.corrupted} corrupted folders, {self.unaccounted} unaccounted steps"
        )
        assert not self.found, self.found
        assert (self.corrupted, self.unaccounted) == (0, 0)


def unaccounted(folder: Path) -> int:
    """Releases that began and that the ledger does not know, and those that share lane and step."""
    began, _ = read_log(folder / "log")  # first: the ledger read after it can only hold more
    return len(set(began) - set(charges(folder / "tiny.ledger"))) + len(began) - len(set(began))


def damaged(run: Path) -> list[str]:
    """What of a run folder is there and does not load."""
    folder, certificate = RunFolder(run), run / "release" / "certificate.json"
    readers: dict[str, Callable[[], Any]] = {
        "checkpoint.pt": lambda: checkpoint.load(folder.checkpoint),
        "run.json": lambda: folder.read("run.json"),
        "images.json": lambda: folder.read("images.json"),
        "certificate.json": lambda: certificate.exists() and Certificate.from_json(certificate.read_text()),
    }
    found = []
    for name, read in readers.items():
        try:
            read()
        except DPDiffusersError as error:
            found.append(f"{name}: {error}")
    return found


def files(root: Path) -> set[str]:
    """Every file below `root`."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


def at_the_end(
    folder: Path, *, budget: float = 1.0, images: bool = False, also: Collection[str] = ()
) -> dict[str, Any]:
    """What must hold for a finished run; its certificate."""
    assert problems(folder) == []
    verified = dpd.Certificate.verify(folder / "run" / "release")
    assert verified.valid, verified.problems
    with Ledger.open(folder / "tiny.ledger") as ledger:
        runs = [run for run in ledger.runs() if run.status != "cancelled"]
        assert [run.status for run in runs] == ["settled"]
    certificate = json.loads((folder / "run" / "release" / "certificate.json").read_text())
    assert certificate["mechanisms"][0]["steps_charged"] == len(charges(folder / "tiny.ledger"))
    assert certificate["epsilon"] <= budget
    left = left_over(folder, images=images, also=also)
    assert not left, left
    return dict(certificate)


def left_over(folder: Path, *, images: bool = False, also: Collection[str] = ()) -> set[str]:
    """Files of a run and its ledger that no finished run has, and those that it lacks."""
    expected = OF_A_RUN | OF_A_RELEASE | (OF_IMAGES if images else set()) | set(also)
    beside = {path.name for path in [*folder.glob("*tiny.ledger*"), *folder.glob(".*tiny.ledger*")]}
    return (files(folder / "run") ^ expected) | (beside - {"tiny.ledger", "tiny.ledger-journal"})
