"""How images get into a release, so that a process may die at any instant and the next one goes on.

Guarantees:
- a folder of images appears in `release/` whole, by one rename from `private/`;
- a folder that was placed but not certified is known by its hashes, which were on disk before it was placed;
- a folder outside the release is known by them too, and taken for what was asked for only while it is whole.
May import the standard library.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.privacy.files import hashes
from dp_diffusers.run.folder import RunFolder

FOLDER = "images"
RECORD = "images.json"
ELSEWHERE = "images_elsewhere.json"
_BUILDING = "images.new"


@dataclass(frozen=True)
class KeptImages:
    """The images of a run: `release/images`, and what `private/` knows about them."""

    folder: RunFolder

    @property
    def target(self) -> Path:
        """Where the images of a release lie."""
        return self.folder.release / FOLDER

    @property
    def building(self) -> Path:
        """Where they are written first: empty ground on the same file system, outside the release."""
        path = self.folder.private / _BUILDING
        shutil.rmtree(path, ignore_errors=True)
        return path

    def place(self, built: Path, request: Mapping[str, Any], numbers: Sequence[int] = ()) -> None:
        """Moves a finished folder into the release, after writing down what it is.

        numbers: what its card says of the images, which is no secret whatever it is.
        """
        record = {"request": dict(request), "files": hashes(built), "numbers": list(numbers)}
        self.folder.write(RECORD, record)
        built.rename(self.target)

    def request(self) -> dict[str, Any] | None:
        """What the images now in the release were asked for with; None where that is not known."""
        record = self.folder.read(RECORD)
        return record["request"] if record is not None and self._is_whole(record) else None

    def public_words(self) -> list[str]:
        """What the images were asked for with, as it stands on their card: classes, texts and numbers."""
        record = self.folder.read(RECORD) or {"request": {}}
        classes = record["request"].get("classes") or {}
        words = [*(classes.get("names") or ()), *(classes.get("prompts") or ())]
        return [*words, *map(str, record.get("numbers", ()))]

    def uncertified(self, listed: Mapping[str, str]) -> bool:
        """Whether the images are in place, whole, and not yet what the certificate lists.

        Raises `ParameterError` for files that no generation of this run has put there.
        """
        if not self.target.exists():
            return False
        found = {f"{FOLDER}/{name}": digest for name, digest in hashes(self.target).items()}
        if all(listed.get(name) == digest for name, digest in found.items()):
            return False
        if self.request() is None:
            raise ParameterError(
                f"{self.target} holds files that the certificate does not list",
                hint="move the folder away, and generate again",
            )
        return True

    def note_elsewhere(self, target: Path, built: Path, request: Mapping[str, Any]) -> None:
        """Writes down what is about to get its name outside the release; forgets what is no longer there."""
        noted = {place: entry for place, entry in self._elsewhere().items() if Path(place).exists()}
        noted[str(target.resolve())] = {"request": dict(request), "files": hashes(built)}
        self.folder.write(ELSEWHERE, noted)

    def holds_elsewhere(self, target: Path, request: Mapping[str, Any]) -> bool:
        """Whether a folder outside the release holds what this run made there for the same request, whole."""
        entry = self._elsewhere().get(str(target.resolve()))
        if entry is None or entry["request"] != dict(request) or not target.is_dir():
            return False
        return bool(hashes(target) == entry["files"])

    def _elsewhere(self) -> dict[str, Any]:
        return self.folder.read(ELSEWHERE) or {}

    def _is_whole(self, record: Mapping[str, Any]) -> bool:
        return self.target.exists() and hashes(self.target) == record["files"]


def digest_of(images: Path) -> str:
    """Stands for the files of a folder of images."""
    return fingerprint(hashes(images))
