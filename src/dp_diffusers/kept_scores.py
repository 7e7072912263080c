"""What `evaluate` found of a release's images, kept beside the release and never in it.

Guarantees that scores lie in `RUN/private/`, since real images were read for them and epsilon does not cover
that, and that scores of other images than those now in the release are not taken for theirs. May import the
standard library and the run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dp_diffusers.kept_images import FOLDER
from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.privacy.files import hashes
from dp_diffusers.run_folder import RunFolder

FILE: Final = "evaluation.json"


def keep_scores(images: Path, scores: dict[str, Any]) -> None:
    """Keeps the document of an evaluation of `RUN/release/images`; does nothing for images elsewhere.

    Nor does it where the run has no private folder any more.
    """
    place = images.resolve()
    folder = RunFolder(place.parent.parent)
    if place == folder.release / FOLDER and folder.private.is_dir():
        folder.write(FILE, {"images": _digest(folder), "scores": scores})


def kept_scores(folder: RunFolder) -> dict[str, Any] | None:
    """The document that `keep_scores` kept; None without one, or where the images are others now.

    Raises `RunFolderError` for a damaged one.
    """
    kept = folder.read(FILE)
    return kept["scores"] if kept is not None and kept["images"] == _digest(folder) else None


def _digest(folder: RunFolder) -> str | None:
    images = folder.release / FOLDER
    return fingerprint(hashes(images)) if images.is_dir() else None
