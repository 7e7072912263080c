"""The files of a release: which there are, their hashes, and reading and writing its certificate.

Guarantee: what is no plain file below the release is never hashed, and a certificate that is there under its
name is complete. Imports the standard library only. Source: the contract of the certificate.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dp_diffusers.errors import RunFolderError
from dp_diffusers.whole_files import write_text

CERTIFICATE_NAME: Final = "certificate.json"
_CHUNK: Final = 1 << 20


def is_uncertified_run(path: Path) -> bool:
    """Whether a folder looks like a run's and holds no certificate of its own."""
    certified = os.path.lexists(path / CERTIFICATE_NAME)
    return not certified and ((path / "private").is_dir() or (path / "recipe.yaml").is_file())


def release_in(path: Path) -> Path:
    """The folder itself; that of its release, where it is a run's.

    A folder with a certificate is always taken as it is: what lies further in cannot answer for it.
    """
    return path / "release" if is_uncertified_run(path) and (path / "release").is_dir() else path


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def release_files(folder: Path) -> dict[str, Path]:
    """Every file, link and empty folder below `folder` but the certificate, by its path with slashes, sorted.

    Raises `OSError` for a folder that cannot be looked into.
    """
    named = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    named.pop(CERTIFICATE_NAME, None)
    return dict(sorted(named.items()))


def _walk(folder: Path) -> Iterator[Path]:
    """Files and links, and folders that hold nothing. Raises `OSError` for what cannot be looked into."""
    with os.scandir(folder) as entries:
        found = sorted(Path(entry.path) for entry in entries)
    for path in found:
        if path.is_symlink() or not path.is_dir():
            yield path
        elif inside := list(_walk(path)):
            yield from inside
        else:
            yield path


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a release. Raises `RunFolderError` for links, which would not travel."""
    files = release_files(folder)
    for name, path in files.items():
        if path.is_symlink() or not path.is_file():
            raise RunFolderError(
                f"{name} in {folder} is not a plain file", hint="a release holds plain files"
            )
    return {name: sha256_of_file(path) for name, path in files.items()}


def changed(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """One sentence for each listed file that is missing, changed, or not a plain file any more."""
    present = release_files(folder)  # a listed path that leaves the folder is not in it, hence missing
    problems = (_change(present.get(name), name, digest) for name, digest in listed.items())
    return [problem for problem in problems if problem]


def unlisted(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """One sentence for each file below `folder` that is not listed."""
    return [
        f"{name} is not listed in the certificate" for name in release_files(folder) if name not in listed
    ]


def _change(path: Path | None, name: str, digest: str) -> str | None:
    if path is None:
        return f"{name} is missing"
    if path.is_symlink() or not path.is_file():
        return f"{name} is not a plain file"
    return None if sha256_of_file(path) == digest else f"{name} was changed"


def read_whole(path: Path) -> str:
    """The text of a file as it is, line ends and all. Raises `RunFolderError` unless it is one, in UTF-8."""
    try:
        if path.is_symlink():
            raise RunFolderError(f"{path} is not a plain file")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        hint = "`dp-diffusers train` writes it; was the folder copied whole?"
        raise RunFolderError(f"{path.parent} holds no {path.name}", hint=hint) from error
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not a text in UTF-8") from error


def write_whole(path: Path, text: str) -> None:
    """Writes `text` so that `path` holds the old or the new content at every instant.

    Raises `RunFolderError` where that is not possible, with `path` untouched.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path}: {error.strerror or error}",
            hint="mend that, and run the same command again",
        ) from error


def forget_unfinished(path: Path) -> None:
    """Deletes what a `write_whole` of `path` left behind when its process died."""
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        left.unlink(missing_ok=True)
