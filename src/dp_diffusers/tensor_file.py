"""Arrays with a few words about them in one safetensors file.

Guarantee: a file is whole or not there, and one that cannot be read is refused by name. May import numpy and
safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dp_diffusers.errors import RunFolderError
from dp_diffusers.whole_files import replacing


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Replaces `path` whole or not at all. Raises `OSError` with `path` untouched."""
    from safetensors.numpy import save

    with replacing(path) as stream:
        stream.write(save(dict(tensors), metadata=None if about is None else dict(about)))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, and the words. Raises `RunFolderError` for a file that cannot be read."""
    from safetensors import safe_open
    from safetensors.numpy import load_file

    try:
        with safe_open(path, framework="numpy") as opened:
            return load_file(path), opened.metadata() or {}
    except Exception as error:  # its library raises a kind of its own
        raise damaged(path) from error


def damaged(path: Path) -> RunFolderError:
    """What to raise for a file whose content is not what it should be."""
    return RunFolderError(f"{path} is damaged", hint="restore it, or give another --out")
