"""What a command writes, kept out of the folder of private images, and of releases.

Guarantees: what was made is never taken for private images by a later training, which reads the folder whole;
nothing is written into a release, whosever it is, whose certificate would not list it. Told by place, before
anything is opened or paid. May import where sources lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dp_diffusers.data.metadata import METADATA
from dp_diffusers.data.sources import is_hub, is_saved
from dp_diffusers.data.walking import is_dicom, is_picture
from dp_diffusers.errors import ParameterError
from dp_diffusers.privacy.files import CERTIFICATE_NAME


def lies_in_release(out: Path) -> bool:
    """Whether a place is in a release, whosever it is."""
    return any((folder / CERTIFICATE_NAME).exists() for folder in out.resolve().parents)


def require_outside_release(out: Path, release: Path) -> None:
    """Raises `ParameterError` where `out` is this release, or lies in any: no certificate would list it."""
    if release.resolve() == out.resolve() or lies_in_release(out):
        whose = "the" if _is_within(out, release) else "a"
        raise ParameterError(
            f"{out} lies in {whose} release, whose certificate would not list what is written there",
            hint="leave --out out: the images then become part of the release; or give one elsewhere",
        )


def _is_within(place: Path, folder: Path) -> bool:
    return place.resolve().is_relative_to(folder.resolve())


def require_out_apart(out: Path, settings: Mapping[str, Any], places: Iterable[str | None] = ()) -> None:
    """Raises `ParameterError` where `out` is, or lies in, the folder `data.path` of a run's settings.

    places: further ones of private images, which no recipe names: those of calls in Python.
    A manifest and a table are files, and a folder of `save_to_disk` lists its own: what lies beside them is
    not read.
    """
    for path in {(settings.get("data") or {}).get("path"), *places}:
        if path is not None and not is_hub(path) and Path(path).is_dir() and not is_saved(Path(path)):
            _require_outside(out, Path(path))


def require_no_images(out: Path, settings: Mapping[str, Any]) -> None:
    """Raises `ParameterError` where `out` is a folder of images: what may leave would lie among them.

    A folder around `data.path` and a run is none.
    """
    private = os.path.realpath(str((settings.get("data") or {}).get("path")))
    own = {"private", "release"} if (out / "private" / "lock").exists() else set()
    items = [item for item in _listed(out) if item.name not in own and os.path.realpath(item) != private]
    if any(map(_is_of_images, items)):
        raise ParameterError(
            f"{out} holds images: the release, which may leave, would lie among them",
            hint="give a new --out",
        )


def _listed(folder: Path) -> list[Path]:
    """What can be seen in a folder, if there is one that may be listed."""
    try:
        return [item for item in folder.iterdir() if not item.name.startswith(".")]
    except OSError:
        return []


def _is_of_images(item: Path) -> bool:
    """Whether it is an image, names some, or is a folder right in which some lie."""
    files = [item] if not item.is_dir() else _listed(item)
    return item.name == METADATA or any(is_picture(file) or is_dicom(file) for file in files)


def _require_outside(out: Path, folder: Path) -> None:
    if any(_is_within(out, private) for private in _read_whole(folder)):
        raise ParameterError(
            f"{out} lies in data.path, the folder of the private images: the next training would read it too",
            hint="give an --out elsewhere",
        )


def _read_whole(folder: Path) -> Iterator[Path]:
    """The folder, and where links to folders below it lead: a training follows them. Looks at no file."""
    yield folder.resolve()
    seen: set[Path] = set()
    for place, folders, _ in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        if here in seen:  # a link back: walked already
            folders.clear()
            continue
        seen.add(here)
        yield from (Path(place, name).resolve() for name in folders if os.path.islink(Path(place, name)))
