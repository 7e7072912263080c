"""What `evaluate` found of a release's images, kept beside the release and never in it.

Guarantees that scores lie in `RUN/private/`, since real images were read for them and epsilon does not cover
that, and that scores of other images than those now in the release are not taken for theirs. The digest of
the reference stays there too: it tells references apart and is of real images. May import the standard
library and the run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dp_diffusers.drawing.kept_images import FOLDER
from dp_diffusers.errors import RunFolderError
from dp_diffusers.privacy.canonical import fingerprint
from dp_diffusers.privacy.files import hashes
from dp_diffusers.run.folder import RunFolder

FILE: Final = "evaluation.json"


def keep_scores(images: Path, scores: dict[str, Any], *, reference: str | None = None) -> None:
    """Keeps the document of an evaluation of `RUN/release/images`; does nothing for images elsewhere.

    Nor does it where the run has no private folder any more. reference: digest of what was tested on.
    """
    place = images.resolve()
    folder = RunFolder(place.parent.parent)
    if place == folder.release / FOLDER and folder.private.is_dir():
        folder.write(FILE, {"images": _digest(folder), "reference": reference, "scores": scores})


def kept_scores(folder: RunFolder) -> dict[str, Any] | None:
    """The document that `keep_scores` kept, with its `reference` (None if an earlier version kept it).

    None without a document, or where the images are others now. Raises `RunFolderError` for a damaged one.
    """
    try:
        kept = folder.read(FILE)
    except RunFolderError as error:
        raise damaged(folder) from error
    if kept is None:
        return None
    if not isinstance(kept.get("scores"), dict) or "images" not in kept:
        raise damaged(folder)
    if kept["images"] != _digest(folder):
        return None
    return {**kept["scores"], "reference": kept.get("reference")}


def damaged(folder: RunFolder) -> RunFolderError:
    """What to say of scores that cannot be read: they can be made again."""
    return RunFolderError(f"{folder.private / FILE} is damaged", hint="delete it and evaluate again")


def _digest(folder: RunFolder) -> str | None:
    images = folder.release / FOLDER
    return fingerprint(hashes(images)) if images.is_dir() else None
