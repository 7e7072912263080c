"""Weights from a file: only those that are expected, and only as tensors.

Guarantees that a file whose SHA-256 does not begin as expected is refused before anything in it is used, and
that nothing but tensors is unpickled. May import torch.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import Tensor

from dp_diffusers.errors import ModelError


def read_weights(path: Path, expected: str, what: str) -> tuple[dict[str, Tensor], str]:
    """The tensors in `path` and the file's SHA-256, which must begin with `expected`. Raises `ModelError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{what}: cannot read {path} ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(expected):
        raise ModelError(f"{what}: expected weights of SHA-256 {expected}…, {path} has {digest[:16]}…")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), digest
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(f"{what}: {path} does not hold tensors alone") from error
