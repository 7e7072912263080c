"""The folder of a run: what is resolved, what stays in the safe, what may leave.

Guarantees:
- `private/` is readable by its owner only (mode 0700), and nothing of it is ever copied to `release/`;
- a folder that belongs to another recipe is refused, with the fields that differ;
- one process at a time works in it;
- what was cut or damaged is refused by name, and a disk that fails is one line.
May import the standard library and PyYAML.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import yaml

from dp_diffusers.errors import RunFolderError
from dp_diffusers.whole_files import forget_unfinished, write_text

RUN: Final = "run.json"  # in `private/`: what a training knows of itself
ANSWERS: Final = "answers"  # in `private/`: of charged questions
_CERTIFICATE: Final = "certificate.json"
_ALONE: Final = (
    "give the folder of the run that it comes from, whose recipe names the base model; `dp-diffusers merge` "
    "with --base makes a model of a release alone"
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    root: Path

    @property
    def private(self) -> Path:
        """Checkpoints, cache, crash log: never leaves the safe."""
        return self.root / "private"

    @property
    def release(self) -> Path:
        """What may leave."""
        return self.root / "release"

    @property
    def adapter(self) -> Path:
        """The adapter in peft's layout."""
        return self.release / "adapter"

    @property
    def checkpoint(self) -> Path:
        """Training state."""
        return self.private / "checkpoint.pt"

    @property
    def captions(self) -> Path:
        """Encodings of private captions, while a training needs them."""
        return self.private / "captions"

    @property
    def cache(self) -> Path:
        """Encoded private images, while a training needs them."""
        return self.private / "cache"

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.yaml"

    def require_finished(self) -> None:
        """Raises `RunFolderError` where no training has finished.

        A certificate alone says so only where the safe knows nothing of a training.
        """
        record = self.read(RUN)
        if (record is not None or self.checkpoint.exists()) and not (record or {}).get("done"):
            raise RunFolderError(
                f"the training in {self.root} has not finished",
                hint="`dp-diffusers train` with its recipe and this --out goes on with it, unless it was "
                "closed in its ledger",
            )
        if not (self.release / _CERTIFICATE).exists():
            raise self._no_finished_run()

    def _no_finished_run(self) -> RunFolderError:
        """What lies here instead, and what was to be given."""
        if self.root.is_file():
            return RunFolderError(
                f"{self.root} is a file, and holds no finished run",
                hint="give the folder of a run; `dp-diffusers train RECIPE --out RUN` makes one",
            )
        if (self.root / _CERTIFICATE).is_file():
            run = RunFolder(self.root.absolute().parent)
            inside = run.release == self.root.absolute() and run.recipe.exists()
            return RunFolderError(
                f"{self.root} is the release of a run, and no run folder",
                hint=f"give the run: {run.root}" if inside else _ALONE,
            )
        return RunFolderError(f"{self.root} holds no finished run", hint="`dp-diffusers train` makes one")

    def create(self) -> None:
        """Makes the folders. Raises `RunFolderError` where that is not possible."""
        try:
            self.release.mkdir(parents=True, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
            self.private.chmod(0o700)
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self.root}: {error.strerror}", hint="choose another --out"
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps every other process out of this run until the block, or this process, ends.

        Raises `RunFolderError` if another process is in it. Where a file system knows no locks there is none,
        and the ledger's lanes alone keep two processes apart.
        """
        with self._disk_errors(), (self.private / "lock").open("a") as stream:
            try:
                _flock(stream)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"another process is at work in {self.root}", hint="wait for it, or give another --out"
                ) from error
            except OSError:
                pass
            self._sweep_release()
            yield
            self.sweep()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Names a file of this run that fails; a full disk is for the command line to say."""
        try:
            yield
        except OSError as error:
            place = self.root if error.filename is None else Path(os.fsdecode(error.filename))
            ours = place == self.root or self.root in place.parents
            if error.errno in (None, errno.ENOSPC, errno.EDQUOT) or not ours:
                raise
            raise RunFolderError(
                f"cannot use {place}: {error.strerror}", hint="mend that, and run the same command again"
            ) from error

    def sweep(self) -> None:
        """Removes what processes that died were writing, at the end of every command that had the lock.

        What another process of this machine is writing stays: `near-copies` and `evaluate` have no lock.
        """
        for folder in (self.root, self.private, self.private / ANSWERS):
            forget_unfinished(folder)

    def _sweep_release(self) -> None:
        """The same of the release, before anyone looks at it: what lies there is certified, or refused."""
        for folder in {path.parent for path in self.release.rglob("*.tmp")}:
            forget_unfinished(folder)

    def settings(self) -> dict[str, Any]:
        """The resolved recipe as a plain document. Raises `RunFolderError` for none, or one that was cut."""
        if not self.recipe.exists():
            raise RunFolderError(
                f"{self.root} holds no {self.recipe.name}, which names the base model of its release",
                hint="copy it from where the run was made",
            )
        text = self.recipe.read_text(encoding="utf-8", errors="replace")
        with contextlib.suppress(yaml.YAMLError):
            found = yaml.safe_load(text)
            if isinstance(found, dict) and "base" in found and text.endswith("\n"):
                return found
        raise RunFolderError(
            f"{self.recipe} is damaged",
            hint="restore it, or give another --out; what this run was charged stays charged",
        )

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON document of `private/`, or None. Raises `RunFolderError` for a damaged one."""
        path = self.private / name
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_text())
        except ValueError:
            document = None
        if isinstance(document, dict):
            return document
        raise RunFolderError(
            f"{path} is damaged",
            hint="restore it, or give another --out; what this run was charged stays charged",
        )

    def write(self, name: str, document: dict[str, Any]) -> None:
        """Writes a JSON document of `private/`, whole or not at all."""
        write_text(self.private / name, json.dumps(document, indent=2, sort_keys=True) + "\n")


def make_folder(path: Path) -> None:
    """Makes a folder for results. Raises `RunFolderError` where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}", hint="choose another --out") from error


def _flock(stream: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has none
        return
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
